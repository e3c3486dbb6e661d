"""Where the rows of a dense Hessian come from: a kept graph, products pushed afresh, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from hvplib.ad.axes import Piece
from hvplib.ad.engines import GraphEngine, RecomputeEngine
from hvplib.ad.graph import Graph
from hvplib.ad.leaves import fresh
from hvplib.ad.objective import Objective
from hvplib.ad.report import Attempt
from hvplib.ad.select import FORWARD, REVERSE, is_missing_derivative, refusal, select
from hvplib.ad.strategies import functional_forward, functional_gradient, functional_reverse
from hvplib.ad.verify import agreement, probes, rounding

__all__ = ["KeptRows", "PushedRows", "Rows", "SingleRows"]


_MANY_ROWS = 768  # of one leaf, from which its own linearisation pays


class Rows(Protocol):
    """A source of rows of the Hessians of the components of one output.

    Attributes:
        components: How many numbers the output has, M.
        plain: Whether rows are plain numbers (no graph, no transform around them).
        device: Where they are.
        width: How many are to be asked for at once, where the source knows.
        engine: The kept graph that they come from, if there is one.
        given: All rows that will be asked for, in their order, if they are there.
    """

    components: int
    plain: bool
    device: torch.device
    width: int | None = None
    engine: GraphEngine | None = None
    given: Sequence[Tensor] = ()

    def push(self, piece: Piece, start: int, stop: int) -> Sequence[Tensor]:
        """Rows start ... stop - 1 of the M · len(piece) rows of `piece`, component by component.

        One tensor (stop - start, *shape) per leaf.
        """
        ...

    def bundle(self, pieces: Sequence[Piece]) -> None:
        """These pieces, whole, will be asked for: push them together if that saves anything."""

    def bytes_per_vector(self) -> int:
        """About how much memory each row pushed at once takes."""
        ...


class KeptRows(Rows):
    """Rows of a scalar's Hessian through a linearisation of its gradient that is kept.

    Many rows of one leaf go through `torch.func.vjp` of that leaf's gradient: the same backward pass as
    that of the kept graph, but on tensors that do not require grad, for which torch multiplies batches of
    matrices without copying them first. It is checked against the graph, which takes its place where it is
    not available.
    """

    components = 1
    plain = True

    def __init__(self, engine: GraphEngine, objective: Objective, leaves: Sequence[Tensor]) -> None:
        self.engine: GraphEngine = engine
        self._objective = objective
        self._leaves = [fresh(x).detach() for x in leaves]
        self._bytes = engine.nbytes() + 2 * _bytes(leaves)
        self._pull: tuple[int, Callable[[Tensor], Sequence[Tensor]] | None] | None = None
        self._bundled: dict[int, Sequence[Tensor]] = {}
        self.device = leaves[0].device

    def bundle(self, pieces: Sequence[Piece]) -> None:
        if self.engine.batches:
            tangents = _units_of(pieces, self._leaves)
            self._bundled = _apart(pieces, self.engine.block(tangents, len(tangents[0])))

    def push(self, piece: Piece, start: int, stop: int) -> Sequence[Tensor]:
        if id(piece) in self._bundled:
            return [product[start:stop] for product in self._bundled[id(piece)]]
        units = piece.units(start, stop, self._leaves[piece.leaf])
        if self.engine.batches and piece.offsets.numel() >= _MANY_ROWS:
            if self._pull is None or self._pull[0] != piece.leaf:
                self._pull = piece.leaf, self._linearised(piece.leaf)
            pull = self._pull[1]
            if pull is not None:
                return pull(units)
        return self.engine.rows(piece.leaf, units)

    def _linearised(self, leaf: int) -> Callable[[Tensor], Sequence[Tensor]] | None:
        """(k, *shape of the leaf) -> the rows, for every leaf; None where torch.func does not get there."""
        (probe,) = probes([self._leaves[leaf]], 1)
        try:
            gradient = functional_gradient(self._objective, "reverse", len(self._leaves))
            result: Any = torch.func.vjp(lambda *xs: gradient(*xs)[0][leaf], *self._leaves)
            pull: Callable[[Tensor], Sequence[Tensor]] = torch.func.vmap(result[1])
            rows = pull(torch.stack([probe[0], probe[0]]))
        except RuntimeError as error:
            if not is_missing_derivative(error):
                raise
            return None
        expected = self.engine.rows(leaf, probe[0].unsqueeze(0))
        precision = self._objective.precision(self._leaves)
        noise = rounding(self.engine.value, self.engine.gradient, self._leaves, probe, precision)
        rows = [r[:1] for r in rows]
        same = agreement(rows, expected, "torch.func.vjp against kept graph", precision, noise)
        return pull if same.passed else None

    def bytes_per_vector(self) -> int:
        return self._bytes


class PushedRows(Rows):
    """Forward-over-reverse under vmap, for unit vectors of the leaf and of the output at the same time.

    vmap is outside of the derivative: inside (`jacrev` within `jvp`), torch 2.13 is silently wrong through
    LayerNorm and BatchNorm.
    """

    def __init__(
        self, objective: Objective, leaves: Sequence[Tensor], output: Tensor, strategy: str, *, plain: bool
    ) -> None:
        self._objective = objective
        self._leaves = [fresh(x).detach() if plain else x for x in leaves]
        self._output = output.detach()
        self._strategy = strategy
        self._way = functional_reverse if strategy == REVERSE else functional_forward
        self._bundled: dict[int, Sequence[Tensor]] = {}
        self.components = output.numel()
        self.plain = plain
        self.device = leaves[0].device

    def bundle(self, pieces: Sequence[Piece]) -> None:
        if self.components == 1:
            self._bundled = _apart(pieces, self._products(None, _units_of(pieces, self._leaves)))

    def push(self, piece: Piece, start: int, stop: int) -> Sequence[Tensor]:
        if id(piece) in self._bundled:
            return [product[start:stop] for product in self._bundled[id(piece)]]
        owner = self._leaves[piece.leaf]
        if self.components == 1:
            cotangents, units = None, piece.units(start, stop, owner)
        else:
            entries, size = torch.arange(start, stop), piece.offsets.numel()
            weights = self._output.new_zeros((stop - start, self.components))
            weights[entries - start, entries // size] = 1
            cotangents = weights.reshape((-1, *self._output.shape))
            flat = owner.new_zeros((stop - start, owner.numel()))
            flat[entries - start, piece.offsets[entries % size]] = 1
            units = flat.reshape((-1, *owner.shape))
        vectors = [
            units if index == piece.leaf else x.new_zeros(x.shape).expand(stop - start, *x.shape)
            for index, x in enumerate(self._leaves)
        ]
        return self._products(cotangents, vectors)

    def is_right(self) -> bool:
        """Whether a batch of two equals what `hvp` gives, for a random combination of the components."""
        (v,) = probes(self._leaves, 1)
        ((c,),) = probes([self._output], 1, seed=1)
        if self.components == 1:
            c = torch.ones_like(c)
        outcome = select(self._contracted(c), self._leaves, v).outcome
        try:
            weights = None if self.components == 1 else torch.stack([c, c])
            batch = self._products(weights, [torch.stack([t, t]) for t in v])
        except RuntimeError as error:
            if not is_missing_derivative(error):
                raise
            return False
        precision = self._objective.precision(self._leaves)
        noise = rounding(outcome.value, outcome.gradient, self._leaves, v, precision)
        second = [b[1] for b in batch]
        check = agreement(second, outcome.product, "vmapped products against hvp", precision, noise)
        return check.passed is True

    def _products(self, cotangents: Tensor | None, vectors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Products for all vectors, each with the component that its cotangent picks; None for the one.

        Then the value and its gradient belong to one point, and only the tangents are many.
        """

        def product(cotangent: Tensor | None, *tangents: Tensor) -> tuple[Tensor, ...]:
            objective = self._objective if cotangent is None else self._contracted(cotangent)
            return tuple(self._way(objective, self._leaves, tangents).product)

        in_dims = (None if cotangents is None else 0, *(0 for _ in vectors))
        pushed = torch.func.vmap(product, in_dims=in_dims, randomness="same")
        try:
            return pushed(cotangents, *vectors)
        except RuntimeError as error:
            if not self._falls_back(error):
                raise
            self._way = functional_reverse
            return pushed(cotangents, *vectors)

    def _falls_back(self, error: RuntimeError) -> bool:
        """Whether another way may be tried: not for a custom function, of which nothing is known here."""
        if not is_missing_derivative(error) or self._way is functional_reverse:
            return False
        if self._strategy == FORWARD or "autograd.Function" in str(error):
            raise refusal([Attempt(FORWARD, str(error).splitlines()[0])], error) from error
        return True

    def _contracted(self, cotangent: Tensor) -> Objective:
        return self._objective.then(lambda output: (output * cotangent).sum())

    def bytes_per_vector(self) -> int:
        leaves = [fresh(x) for x in self._leaves]
        with torch.enable_grad():
            value = self._objective.evaluate(leaves, "plain")
        kept = Graph([value]).nbytes(leaves) if value.requires_grad else 0
        return 4 * kept + 3 * _bytes(self._leaves)


class SingleRows(Rows):
    """One product at a time, by the ladder of `hvp`: where nothing can be batched."""

    plain = True

    def __init__(self, objective: Objective, leaves: Sequence[Tensor], output: Tensor, strategy: str) -> None:
        self._leaves = leaves
        self.components = output.numel()
        self.device = leaves[0].device
        self.engines = [
            RecomputeEngine(objective.then(partial(_entry, m)), leaves, strategy)
            for m in range(self.components)
        ]

    def bundle(self, pieces: Sequence[Piece]) -> None:
        pass  # pieces of different leaves are not pushed at once here

    def push(self, piece: Piece, start: int, stop: int) -> Sequence[Tensor]:
        size = piece.offsets.numel()
        rows = []
        for entry in range(start, stop):
            unit = piece.units(entry % size, entry % size + 1, self._leaves[piece.leaf].detach())[0]
            tangents = [unit if i == piece.leaf else torch.zeros_like(x) for i, x in enumerate(self._leaves)]
            rows.append(self.engines[entry // size].product(tangents))
        return [torch.stack(parts) for parts in zip(*rows, strict=True)]

    def bytes_per_vector(self) -> int:
        return _bytes(self._leaves)


def _entry(number: int, output: Tensor) -> Tensor:
    return output.reshape(-1)[number]


def _units_of(pieces: Sequence[Piece], leaves: Sequence[Tensor]) -> list[Tensor]:
    """The unit vectors of all entries of these pieces, one after another."""
    counts = [piece.offsets.numel() for piece in pieces]
    tangents = [x.new_zeros((sum(counts), *x.shape)) for x in leaves]
    start = 0
    for piece, count in zip(pieces, counts, strict=True):
        tangents[piece.leaf][start : start + count] = piece.units(0, count, leaves[piece.leaf])
        start += count
    return tangents


def _apart(pieces: Sequence[Piece], products: Sequence[Tensor]) -> dict[int, Sequence[Tensor]]:
    """By the identity of each piece, its rows among those of all."""
    counts = [piece.offsets.numel() for piece in pieces]
    parts = [product.split_with_sizes(counts) for product in products]
    return {id(piece): [part[i] for part in parts] for i, piece in enumerate(pieces)}


def _bytes(leaves: Sequence[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in leaves)
