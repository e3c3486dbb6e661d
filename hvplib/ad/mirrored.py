"""A dense Hessian by the blocks on and above its diagonal; those below are their mirror images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hvplib.ad.backward import pulled_back
from hvplib.ad.engines import GraphEngine
from hvplib.ad.memory import chunk_width, with_backoff
from hvplib.ad.objective import Objective
from hvplib.ad.parts import Part, parts_of
from hvplib.ad.select import is_missing_derivative
from hvplib.ad.strategies import functional_gradient
from hvplib.ad.transforms import mapped

__all__ = ["mirrored"]

# Rows of tensors as small as this are pushed together: each pass costs Python as much as many rows.
_SMALL = 64
# So much wider than chunks are otherwise is one that leaves no rest.
_ROOM = 2
# Of one part, from which there are faster ways.
_MANY = 768
# Rows of one part, from which an evaluation of func for a faster pass pays.
_VERY_MANY = 2048

_Live = tuple[Part, Tensor]  # with its gradient, which has a graph
_Pull = Callable[..., Sequence[Tensor]]


def mirrored(
    engine: GraphEngine, value: Tensor | None, objective: Objective, chunk_size: int | str | None
) -> list[list[Tensor]] | None:
    """H as blocks (1, n_i, n_j) for the leaves i and j, by batched passes; None where there are none.

    The rows of a part are led to the parts that come after it: in a network, a pass for a late layer passes
    by the early ones. That H is symmetric is taken for granted, so the result must be held to a product by
    another way.

    Args:
        engine: The kept graph. Its leaves have one dtype and are on one device.
        value: Of func, with its graph; without it flat vectors are not taken apart.
        objective: What it is the graph of.
        chunk_size: As in `hessian`.
    """
    parts = parts_of(value, engine.leaves)
    if len(parts) == 1 and len(parts[0]) > _MANY:
        return None
    gradients: Sequence[Tensor | None] = engine.live_gradient
    if value is not None and not all(part.whole for part in parts):
        gradients = _gradients(value, parts)
    live = [(p, g) for p, g in zip(parts, gradients, strict=True) if g is not None and g.requires_grad]
    try:
        return _Matrix(engine, objective, live, chunk_size).blocks
    except RuntimeError as error:
        if not is_missing_derivative(error):
            raise
        return None


def _gradients(value: Tensor, parts: Sequence[Part]) -> Sequence[Tensor | None]:
    with torch.enable_grad():
        return pulled_back([value], [part.end for part in parts], [torch.ones_like(value)], create_graph=True)


class _Matrix:
    """Filled with the rows of some parts, each given with its gradient; the others are zero."""

    def __init__(
        self,
        engine: GraphEngine,
        objective: Objective,
        live: Sequence[_Live],
        chunk_size: int | str | None,
    ) -> None:
        self._like = engine.leaves[0]
        sizes = [x.numel() for x in engine.leaves]
        complete = sum(len(part) for part, _ in live) == sum(sizes)
        make = self._like.new_empty if complete else self._like.new_zeros
        self.blocks = [[make((1, m, n)) for n in sizes] for m in sizes]
        per_vector = engine.nbytes() + 2 * sum(sizes) * self._like.element_size()
        for down, across in _passes(live):
            count = sum(len(part) for part, _ in down)
            width = count if chunk_size is None else chunk_size
            if isinstance(width, str):
                width = chunk_width(per_vector, count, self._like.device)
                width = count if count <= _ROOM * width else width
            pull = None
            if len(down) == 1 and count >= _VERY_MANY and all(part.whole for part in across):
                pull = _linearised(objective, engine.leaves, down[0][0], across)
            with_backoff(partial(self._fill, down, across, pull), count, width)

    def _fill(
        self, down: Sequence[_Live], across: Sequence[Part], pull: _Pull | None, start: int, stop: int
    ) -> None:
        """Rows start ... stop − 1 of those of the parts in `down`, led to those in `across`; and images.

        By the graph, or by `pull` where there is one.
        """
        asked, first = [], 0
        for part, gradient in down:
            begin, end = max(start - first, 0), min(stop - first, len(part))
            if begin < end:
                asked.append((part, gradient, begin, end, first + begin - start))
            first += len(part)
        units = []
        for part, _, begin, end, at in asked:
            unit = self._like.new_zeros((stop - start, len(part)))
            unit[at : at + end - begin, begin:end].diagonal().fill_(1)
            units.append(unit.view(stop - start, *part.shape))
        graph = partial(_pulled, [gradient for _, gradient, *_ in asked], across)
        products = graph(units) if pull is None else mapped(pull, units)
        for other, product in zip(across, products, strict=True):
            mirror = all(other is not part for part, _ in down)
            for part, _, begin, end, at in asked:
                rows = slice(part.start + begin, part.start + end)
                columns = slice(other.start, other.stop)
                block = self.blocks[part.leaf][other.leaf][0, rows, columns]
                image = self.blocks[other.leaf][part.leaf][0, columns, rows]
                if product is None:
                    found = block.new_zeros(block.shape)
                else:
                    found = product[at : at + end - begin].reshape(block.shape)
                block.copy_(found)
                if mirror:
                    image.copy_(found.mT)


def _passes(live: Sequence[_Live]) -> list[tuple[list[_Live], list[Part]]]:
    """What is pulled back together, and to which parts."""
    small = [pair for pair in live if len(pair[0]) <= _SMALL]
    large = [pair for pair in live if len(pair[0]) > _SMALL]
    passes = [(small, [part for part, _ in (*small, *large)])] if small else []
    return passes + [([pair], [part for part, _ in large[i:]]) for i, pair in enumerate(large)]


def _linearised(objective: Objective, leaves: Sequence[Tensor], down: Part, across: Sequence[Part]) -> _Pull:
    """The pass by `torch.func.vjp`: on tensors that do not require grad.

    For these torch multiplies batches of matrices without copying them first. It takes an evaluation.
    """
    gradient = functional_gradient(objective, "reverse", len(leaves))
    points = [x.detach() for x in leaves]

    def own(*xs: Tensor) -> Tensor:
        moved = dict(zip([part.leaf for part in across], xs, strict=True))
        found: Tensor = gradient(*[moved.get(i, x) for i, x in enumerate(points)])[0][down.leaf]
        return found

    result: Any = torch.func.vjp(own, *[points[part.leaf] for part in across])
    pull: _Pull = result[1]
    return pull


def _pulled(
    gradients: Sequence[Tensor], across: Sequence[Part], cotangents: Sequence[Tensor]
) -> list[Tensor | None]:
    """One batched pass; None for a part that the gradients do not depend on."""
    ends = [part.end for part in across]
    reached: list[bool] = []

    def pull(*us: Tensor) -> tuple[Tensor, ...]:
        pulled = pulled_back(gradients, ends, us, retain_graph=True)
        reached[:] = [p is not None for p in pulled]
        return tuple(p for p in pulled if p is not None)

    found = iter(mapped(pull, cotangents))
    return [next(found) if there else None for there in reached]
