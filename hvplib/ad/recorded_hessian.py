"""The whole Hessian of a function that has been recorded, by programs for the rows of each of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hvplib.ad.graph import storage_bytes
from hvplib.ad.memory import chunk_width
from hvplib.ad.trace.linear import LinearMap, Part
from hvplib.ad.trace.second_order import SecondOrder
from hvplib.ad.trace.unit_rows import UnitRows
from hvplib.errors import TraceError

__all__ = ["RecordedHessian"]

# Rows at a time: fewer pay for Python too often, more leave the caches.
_WIDTH = 64
# So few rows are computed at once, with all that does not depend on the point computed beforehand.
_FEW = 128
# An operation takes as long as so many numbers.
_OPERATION = 2e4
# Programs for one function.
_PROGRAMS = 16


@dataclass(frozen=True)
class _Group:
    """Parts whose rows are computed together, and the parts whose columns are."""

    rows: list[int]
    columns: list[int]


class RecordedHessian:
    """residuals ↦ H, in blocks of leaves.

    The rows of a part (a leaf, or a slice of a vector) are products with vectors that are zero elsewhere:
    what comes of zeros is left out. And since H is symmetric, the columns of parts whose own rows have been
    computed are copied from these. The parts are taken in that of the two orders which leaves more out.

    Args:
        program: Of the function.
        residuals: Of one point, to record at.
        leaves: That point.
        limit: The most rows at a time, if there is a limit.

    Raises:
        TraceError, RuntimeError: The products cannot be batched, or not recorded.
    """

    def __init__(
        self,
        program: SecondOrder,
        residuals: Sequence[Tensor],
        leaves: Sequence[Tensor],
        limit: int | None,
    ) -> None:
        self._linear = linear = program.products
        self._sizes = [x.numel() for x in leaves]
        if 0 in self._sizes or len({(x.dtype, x.device) for x in leaves}) > 1:
            raise TraceError("the primals are not all of one dtype and device, or some are empty")
        self._parts = linear.parts
        self._like = leaves[0]
        total = sum(self._sizes)
        per_vector = storage_bytes(residuals, apart_from=leaves) + 2 * total * self._like.element_size()
        widest = chunk_width(per_vector, total if total <= _FEW else _WIDTH, self._like.device)
        self._widest = widest if limit is None else min(widest, limit)
        self._groups = self._grouped(linear)
        self._rows = [
            UnitRows(linear, group.rows, group.columns, self._width(group.rows), residuals, self._like)
            for group in self._groups
        ]

    def __call__(self, residuals: Sequence[Tensor]) -> list[list[Tensor]]:
        """H: for each leaf and each leaf, (n_i, n_j)."""
        if len(self._rows) == 1 and len(self._rows[0].starts) == 1:
            return self._at_once(residuals)
        new = self._like.new_empty
        blocks = [[new((m, n)) for n in self._sizes] for m in self._sizes]
        done: list[int] = []
        for group, rows in zip(self._groups, self._rows, strict=True):
            for number in group.rows:
                part = self._parts[number]
                own = blocks[part.leaf]
                for other in done:
                    column = self._parts[other]
                    mirrored = blocks[column.leaf][part.leaf][_at(column), _at(part)]
                    own[column.leaf][_at(part), _at(column)] = mirrored.mT
                for other in set(group.columns) - set(rows.live):
                    column = self._parts[other]
                    own[column.leaf][_at(part), _at(column)] = 0
            for start in rows.starts if rows.live else ():
                self._put(blocks, group, rows.live, rows(residuals, start), start)
            done += group.rows
        return blocks

    def _put(
        self,
        blocks: list[list[Tensor]],
        group: _Group,
        columns: Sequence[int],
        chunk: Sequence[Tensor],
        start: int,
    ) -> None:
        """Write a chunk of rows where it belongs."""
        matrices = [rows.reshape(len(rows), -1) for rows in chunk]
        first = 0
        for number in group.rows:
            part = self._parts[number]
            begin, end = max(start, first), min(start + len(matrices[0]), first + len(part))
            if begin < end:
                at = slice(part.start + begin - first, part.start + end - first)
                for other, matrix in zip(columns, matrices, strict=True):
                    column = self._parts[other]
                    blocks[part.leaf][column.leaf][at, _at(column)] = matrix[begin - start : end - start]
            first += len(part)

    def _at_once(self, residuals: Sequence[Tensor]) -> list[list[Tensor]]:
        """H of all rows in one chunk."""
        live = zip(self._rows[0].live, self._rows[0](residuals, 0), strict=True)
        matrices = {number: rows.reshape(len(rows), -1) for number, rows in live}
        columns: list[list[Tensor]] = [[] for _ in self._sizes]
        for number, part in enumerate(self._parts):
            found = matrices.get(number)
            columns[part.leaf].append(self._zeros(len(part)) if found is None else found)
        joined = [parts[0] if len(parts) == 1 else torch.cat(parts, 1) for parts in columns]
        return [
            list(row) for row in zip(*(rows.split_with_sizes(self._sizes) for rows in joined), strict=True)
        ]

    def _zeros(self, count: int) -> Tensor:
        return self._like.new_zeros((sum(self._sizes), count))

    def _width(self, rows: Sequence[int]) -> int:
        """As wide as can be, with chunks that are as equal as can be."""
        size = sum(len(self._parts[number]) for number in rows)
        return -(-size // -(-size // self._widest))

    def _grouped(self, linear: LinearMap) -> list[_Group]:
        order = list(range(len(self._parts)))
        if sum(self._sizes) <= self._widest:
            return [_Group(order, order)]
        operation = _OPERATION
        while True:
            choices = [self._joined(linear, numbers, operation) for numbers in (order, order[::-1])]
            groups = min(choices, key=lambda choice: sum(self._price(linear, g, operation) for g in choice))
            if len(groups) <= _PROGRAMS:
                return groups
            operation *= 2

    def _joined(self, linear: LinearMap, order: Sequence[int], operation: float) -> list[_Group]:
        """Neighbours in this order, together where that is cheaper."""
        groups: list[_Group] = []
        for place, number in enumerate(order):
            alone = _Group([number], list(order[place:]))
            if groups:
                joined = _Group([*groups[-1].rows, number], groups[-1].columns)
                apart = self._price(linear, groups[-1], operation) + self._price(linear, alone, operation)
                if self._price(linear, joined, operation) <= apart:
                    groups[-1] = joined
                    continue
            groups.append(alone)
        return groups

    def _price(self, linear: LinearMap, group: _Group, operation: float) -> float:
        operations, numbers = linear.cost(group.rows, group.columns)
        width = self._width(group.rows)
        chunks = -(-sum(len(self._parts[number]) for number in group.rows) // width)
        return chunks * (operations * operation + numbers * width)


def _at(part: Part) -> slice:
    return slice(part.start, part.stop)
