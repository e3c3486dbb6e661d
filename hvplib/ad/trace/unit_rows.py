"""Rows of a matrix that is known as a recorded linear map: products with unit vectors, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hvplib.ad.guard import derivative
from hvplib.ad.trace.linear import LinearMap, Outer, Part, Value
from hvplib.ad.trace.replay import Program
from hvplib.ad.transforms import mapped

__all__ = ["UnitRows"]


class UnitRows:
    """The rows of a few parts, in chunks of `width`, for some columns: residuals ↦ chunks.

    Args:
        linear: The map.
        rows: The parts whose rows they are, by number; rows are counted from the first entry of the first.
        columns: The parts whose columns are wanted, by number.
        width: Of a chunk; not more than there are rows.
        residuals: Of one point, to record at.
        like: A tensor of the dtype and on the device of the rows.

    Attributes:
        size, width: How many rows there are, and in a chunk.
        live: The columns in which anything can differ from zero; a chunk holds these.

    Raises:
        TraceError, RuntimeError: Their products cannot be batched, or not recorded.
    """

    def __init__(
        self,
        linear: LinearMap,
        rows: Sequence[int],
        columns: Sequence[int],
        width: int,
        residuals: Sequence[Tensor],
        like: Tensor,
    ) -> None:
        self._rows = list(rows)
        self._parts = [linear.parts[number] for number in rows]
        self.width = width
        self._like = like
        self.size = sum(map(len, self._parts))
        self.live: list[int] = list(columns)
        self._linear = linear
        # One chunk is all there is: what does not depend on the point is computed once.
        self._whole = self._units(0) if width == self.size else None
        with derivative():
            if self._whole is not None:
                whole = self._whole
                self._program = Program(lambda *r: self._push(r, whole), residuals)
            else:
                count = len(residuals)
                inputs = [*residuals, *map(torch.randn_like, self._units(0))]
                self._program = Program(lambda *x: self._push(x[:count], x[count:]), inputs)

    @property
    def starts(self) -> list[int]:
        """Where the chunks begin; the last may overlap the one before."""
        last = self.size - self.width
        return [min(start, last) for start in range(0, self.size, self.width)]

    def __call__(self, residuals: Sequence[Tensor], start: int) -> Sequence[Tensor]:
        """Rows start ... start + width − 1: for each column in `live`, (width, *its shape)."""
        if self._whole is not None:
            return self._program.run(*residuals)
        return self._program.run(*residuals, *self._units(start))

    def _push(self, residuals: Sequence[Tensor], units: Sequence[Tensor]) -> Sequence[Tensor]:
        def push(*tensors: Tensor) -> list[Tensor]:
            vectors, given = {}, iter(tensors)
            for number, part in zip(self._rows, self._parts, strict=True):
                vectors[number] = _value(part, given)
            products = self._linear(residuals, vectors, self.live)
            self.live = [number for number, p in zip(self.live, products, strict=True) if p is not None]
            return [product for product in products if product is not None]

        return mapped(push, units)

    def _units(self, start: int) -> list[Tensor]:
        """What `_push` takes for the unit vectors of a chunk: matrices as two factors."""
        tensors, first = [], 0
        for part in self._parts:
            size = len(part)
            begin, end = max(start, first), min(start + self.width, first + size)
            at = slice(begin - start, max(begin, end) - start)
            entries = torch.arange(begin - first, max(begin, end) - first)
            if part.matrix is None:
                tensors.append(self._ones(size, at, entries).reshape((-1, *part.shape)))
            else:
                tensors.append(self._ones(part.matrix[0], at, entries // part.matrix[1]))
                tensors.append(self._ones(part.matrix[1], at, entries % part.matrix[1]))
            first += size
        return tensors

    def _ones(self, size: int, at: slice, entries: Tensor) -> Tensor:
        """(width, size), zero but for a 1 at these entries in the rows `at`."""
        block = self._like.new_zeros((self.width, size))
        if len(entries):
            block[at].scatter_(1, entries.to(block.device).unsqueeze(1), 1)
        return block


def _value(part: Part, tensors: Iterator[Tensor]) -> Value:
    first = next(tensors)
    return first if part.matrix is None else Outer(first, next(tensors), flat=len(part.shape) == 1)
