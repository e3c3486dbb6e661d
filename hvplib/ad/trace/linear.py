"""A recorded linear map, run with what is known of its vectors: zeros, and matrices of rank one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from hvplib.ad.trace.recorder import Trait

__all__ = ["LinearMap", "Outer", "Part", "Value"]

aten: Any = torch.ops.aten

_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}
_SWAPS = {aten.t.default, aten.transpose.int}
_SUMS = {aten.add.Tensor, aten.sub.Tensor}
# What gives zero where all vectors among its arguments are zero, whatever else they are. (Not `ones_like`.)
_ZERO_OF_ZEROS = {
    *_RESHAPES,
    *_SWAPS,
    *_SUMS,
    *(aten.expand.default, aten.permute.default, aten.unsqueeze.default, aten.squeeze.dim),
    *(aten.squeeze.default, aten.slice.Tensor, aten.select.int, aten.clone.default, aten.alias.default),
    *(aten.neg.default, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar),
    *(aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default, aten.cat.default),
    *(aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim),
    *(aten.tanh_backward.default, aten.sigmoid_backward.default, aten.threshold_backward.default),
    *(aten._softmax_backward_data.default, aten._log_softmax_backward_data.default),
    *(aten.slice_backward.default, aten.select_backward.default),
}


@dataclass(frozen=True)
class Outer:
    """The matrix left rightᵀ, not multiplied out; or its entries as one vector, if `flat`."""

    left: Tensor
    right: Tensor
    flat: bool = False

    def dense(self) -> Tensor:
        """The numbers."""
        matrix = self.left.unsqueeze(1) * self.right
        return matrix.reshape(-1) if self.flat else matrix


Value = Tensor | Outer | None
"""None is a zero of the shape that the place has."""


@dataclass(frozen=True)
class Part:
    """Entries start ... stop - 1 of a flattened leaf, which the map treats by themselves.

    Attributes:
        leaf: Its number.
        shape: In which they are read.
        matrix: In which they are a matrix, if they are.
    """

    leaf: int
    start: int
    stop: int
    shape: tuple[int, ...]
    matrix: tuple[int, int] | None

    def __len__(self) -> int:
        return self.stop - self.start


class LinearMap:
    """(residuals, vectors) ↦ products, for vectors and products in parts.

    Args:
        graph: Pure; its placeholders are the residuals, then one vector for each leaf. Its outputs, one for
            each leaf again, are linear in the vectors.
        constants: What its `get_attr` nodes stand for.
        traits: What the tensor of each node looks like.
        leaves: How many.

    Attributes:
        parts: What vectors and products consist of, leaf by leaf: whole leaves, or the slices of a vector.
    """

    def __init__(
        self,
        graph: fx.Graph,
        constants: Mapping[str, Tensor],
        traits: Mapping[fx.Node, Trait],
        leaves: int,
    ) -> None:
        self._nodes = list(graph.nodes)
        self._constants = constants
        self._shapes = {node: trait.shape for node, trait in traits.items()}
        inputs = [node for node in self._nodes if node.op == "placeholder"]
        self._residuals = inputs[: len(inputs) - leaves]
        vectors, ends = inputs[len(inputs) - leaves :], self._nodes[-1].args[0]
        self.parts: list[Part] = []
        self._entries: list[list[fx.Node]] = []  # for each part, the nodes that hold its vector
        self._ends: list[fx.Node] = []  # for each part, the node of its product
        for number, (vector, end) in enumerate(zip(vectors, ends, strict=True)):
            self._cut(number, vector, end)
        self._moving = set(vectors)
        for node in self._nodes:
            if any(argument in self._moving for argument in node.all_input_nodes):
                self._moving.add(node)

    def cost(self, rows: Sequence[int], columns: Sequence[int]) -> tuple[int, int]:
        """Operations and numbers that a vector in the parts `rows` takes for its product in `columns`."""
        alive = {node for part in rows for node in self._entries[part]}
        for node in self._nodes:
            if node in self._moving and any(argument in alive for argument in node.all_input_nodes):
                alive.add(node)
        needed = self._needed(columns)
        sizes = [self._shapes[node].numel() for node in alive & needed if node in self._shapes]
        return len(sizes), sum(sizes)

    def __call__(
        self, residuals: Sequence[Tensor], vectors: Mapping[int, Value], columns: Sequence[int]
    ) -> list[Tensor | None]:
        """The products in the parts `columns` of vectors that are zero but in these parts; None for zeros."""
        values: dict[fx.Node, Any] = dict(zip(self._residuals, residuals, strict=True))
        for part, entries in enumerate(self._entries):
            values |= dict.fromkeys(entries, vectors.get(part))
        needed = self._needed(columns)
        for node in self._nodes:
            if node not in needed or node in values:
                continue
            if node.op == "get_attr":
                values[node] = self._constants[str(node.target)]
            elif node.op == "call_function":
                values[node] = self._computed(node, values)
        ends = [self._ends[part] for part in columns]
        return [self._dense(values[end]) if end in self._moving else None for end in ends]

    def _computed(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Value:
        """What the operation gives, as little as there is of it."""
        moving = [argument for argument in node.all_input_nodes if argument in self._moving]
        if moving and all(values[a] is None for a in moving) and node.target in _ZERO_OF_ZEROS:
            return None
        if node.target in _SUMS and len(moving) == 2 and not node.kwargs:
            left, right = (values[argument] for argument in node.args)  # type: ignore[index]
            if right is None or left is None:
                return self._sum(node, left, right)
        if (short := self._by_rank_one(node, values)) is not None:
            return short

        def numbers(argument: fx.Node) -> Any:
            value = values[argument]
            if value is None and argument in self._moving:
                return self._zeros(argument, values)
            return self._dense(value)

        args, kwargs = fx.map_arg((node.args, node.kwargs), numbers)
        operation: Any = node.target
        result: Value = operation(*args, **kwargs)
        return result

    def _sum(self, node: fx.Node, left: Value, right: Value) -> Value:
        """left ± right where one of them is zero."""
        rest = left if right is None else right
        assert rest is not None
        shape = self._shapes[node]
        dense: Tensor = self._dense(rest)
        if node.target is aten.sub.Tensor and right is not None:
            dense = dense.neg()
        return dense if dense.shape == shape else dense.expand(shape)

    def _by_rank_one(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Value:
        """The result where an outer product makes it cheaper; None where there is nothing to gain."""
        arguments = [values[a] if isinstance(a, fx.Node) else a for a in node.args]
        if node.kwargs or not arguments:
            return None
        first, second = arguments[0], arguments[-1]
        if node.target is aten.mm.default:
            if isinstance(first, Outer) and isinstance(second, Tensor):
                return Outer(first.left, first.right @ second)
            if isinstance(second, Outer) and isinstance(first, Tensor):
                # The vector first: many vectors then come out one after another in memory.
                return Outer(second.left @ first.mT, second.right)
        elif isinstance(first, Outer):
            if node.target in _SWAPS and not first.flat:
                return Outer(first.right, first.left)
            if node.target in _RESHAPES and tuple(self._shapes[node]) == (len(first.left), len(first.right)):
                return Outer(first.left, first.right)
        return None

    def _zeros(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Tensor:
        like = next(value for value in values.values() if isinstance(value, Tensor))
        return torch.zeros(self._shapes[node], dtype=like.dtype, device=like.device)

    @staticmethod
    def _dense(value: Any) -> Any:
        return value.dense() if isinstance(value, Outer) else value

    def _needed(self, columns: Sequence[int]) -> set[fx.Node]:
        needed: set[fx.Node] = {self._ends[part] for part in columns}
        for node in reversed(self._nodes):
            if node in needed:
                needed |= set(node.all_input_nodes)
        return needed

    def _cut(self, leaf: int, vector: fx.Node, end: fx.Node) -> None:
        """Note the parts of a leaf."""
        shape = self._shapes[vector]
        slices = self._slices(vector)
        pieces = self._pieces(end)
        if slices is None or pieces is None or list(slices) != [(a, b) for a, b, _ in pieces]:
            matrix = (shape[0], shape[1]) if len(shape) == 2 else None
            self.parts.append(Part(leaf, 0, shape.numel(), tuple(shape), matrix))
            self._entries.append([vector])
            self._ends.append(end)
            return
        for (start, stop), (_, _, piece) in zip(slices, pieces, strict=True):
            nodes = slices[start, stop]
            self.parts.append(Part(leaf, start, stop, (stop - start,), self._matrix(nodes)))
            self._entries.append(nodes)
            self._ends.append(piece)

    def _slices(self, vector: fx.Node) -> dict[tuple[int, int], list[fx.Node]] | None:
        """The slices that a vector is read in, in order, if it is read in no other way."""
        found: dict[tuple[int, int], list[fx.Node]] = {}
        if len(self._shapes[vector]) != 1:
            return None
        size = self._shapes[vector][0]
        for user in vector.users:
            if user.target is not aten.slice.Tensor or len(user.args) != 4 or user.args[1] != 0:
                return None
            start, stop = (min(int(bound), size) for bound in user.args[2:])  # type: ignore[arg-type]
            found.setdefault((start, stop), []).append(user)
        return dict(sorted(found.items()))

    def _pieces(self, end: fx.Node) -> list[tuple[int, int, fx.Node]] | None:
        """The vectors that a product is joined from."""
        if end.target is not aten.cat.default or len(end.args) > 1 or end.kwargs:
            return None
        pieces, start = [], 0
        for piece in end.args[0]:  # type: ignore[union-attr]
            stop = start + self._shapes[piece][0]  # type: ignore[index]
            pieces.append((start, stop, piece))
            start = stop
        return pieces  # type: ignore[return-value]

    def _matrix(self, nodes: Sequence[fx.Node]) -> tuple[int, int] | None:
        """The shape in which a slice is looked at as a matrix, if it is."""
        for user in (user for node in nodes for user in node.users):
            if user.target in _RESHAPES and len(self._shapes[user]) == 2:
                return self._shapes[user][0], self._shapes[user][1]
        return None
