"""What a function takes of its primals: whole tensors, or the slices that it cuts a flat vector into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge

from hvplib.ad.graph import Graph

__all__ = ["Part", "may_be_cut", "parts_of"]

# Of more, and of smaller ones than this on average, nothing is gained by taking them apart.
_MANY, _SMALL = 64, 16


@dataclass(frozen=True)
class Part:
    """Some consecutive entries of a flattened primal, which func sees as a tensor of their own.

    Attributes:
        leaf: Which primal.
        start, stop: The entries.
        shape: Of the tensor.
        end: What a backward pass has to be led to for the derivative with respect to it: the primal, or the
            place in the graph where the slice is made.
    """

    leaf: int
    start: int
    stop: int
    shape: tuple[int, ...]
    end: Tensor | GradientEdge

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def whole(self) -> bool:
        """Whether it is the primal itself."""
        return isinstance(self.end, Tensor)


def parts_of(value: Tensor | None, leaves: Sequence[Tensor]) -> list[Part]:
    """The parts that `value` depends on, which share no entry; entries that are in none do not matter.

    Args:
        value: What func returns, with its graph; without it nothing is known of slices.
        leaves: Leaves of that graph.
    """
    graph: Graph | None = None
    parts: list[Part] = []
    for index, leaf in enumerate(leaves):
        slices = None
        if value is not None and may_be_cut(leaf):
            graph = graph or Graph([value])
            slices = _slices(index, leaf, graph)
        parts += slices or [Part(index, 0, leaf.numel(), tuple(leaf.shape), leaf)]
    return parts


def may_be_cut(leaf: Tensor) -> bool:
    """Whether it would be taken apart where func does so."""
    return leaf.dim() == 1 and leaf.numel() > 2 * _SMALL


def _slices(index: int, leaf: Tensor, graph: Graph) -> list[Part] | None:
    """The slices that func makes of a vector; None if it does something else with it, or slices overlap."""
    found = []
    for node in graph.users(leaf):
        spans = _spans(node, leaf.numel())
        if spans is None:
            return None
        for output, (start, stop) in enumerate(spans):
            end, shape = _shaped(graph, node, output)
            found.append(Part(index, start, stop, shape, end))
    found.sort(key=lambda part: part.start)
    apart = all(left.stop <= right.start for left, right in pairwise(found))
    few = len(found) <= min(_MANY, leaf.numel() // _SMALL)
    return found if apart and few else None


def _shaped(graph: Graph, node: Any, output: int) -> tuple[GradientEdge, tuple[int, ...]]:
    """The end of this output of a node, or of the tensor that is all that is made of it; and its shape.

    The second spares passes that lead to some of the outputs of a node the way to the others.
    """
    users = graph.users(node, output)
    if len(users) == 1 and users[0].name() == "ViewBackward0":
        node, output = users[0], 0
    return GradientEdge(node, output), tuple(node._input_metadata[output].shape)


def _spans(node: Any, size: int) -> list[tuple[int, int]] | None:
    """Where each tensor that this node makes of a vector starts and stops; None if that is not known."""
    kind = node.name()
    if kind == "SplitWithSizesBackward0":
        stops = list(accumulate(node._saved_split_sizes))
        return list(zip([0, *stops], stops, strict=False))
    if kind == "SplitBackward0":
        step = node._saved_split_size
        return [(start, min(start + step, size)) for start in range(0, size, step)]
    if kind == "SliceBackward0" and node._saved_step == 1:
        start, stop, _ = slice(_signed(node._saved_start), _signed(node._saved_end)).indices(size)
        return [(start, max(start, stop))]
    if kind == "SelectBackward0":
        start = (_signed(node._saved_index) or 0) % size
        return [(start, start + 1)]
    return None


def _signed(position: int | None) -> int | None:
    """A position in a tensor; torch shows negative ones modulo 2⁶⁴."""
    return position - 2**64 if position is not None and position >= 2**63 else position
