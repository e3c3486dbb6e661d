"""Rows of a scalar's Hessian in chunks of one width, whichever tensors they belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hvplib.ad.axes import Piece
from hvplib.ad.engines import GraphEngine
from hvplib.ad.memory import is_out_of_memory
from hvplib.ad.rows import Rows

__all__ = ["WholeRows", "units"]

Block = Callable[[Sequence[Tensor], int], Sequence[Tensor]]


class WholeRows(Rows):
    """Rows by products with blocks of unit vectors, all of one width: what is recorded of one serves all.

    The last block is filled up with zeros. Rows are to be asked for in the order of the pieces; those of a
    block are kept until the next one is made.

    Args:
        block: From tangents with a leading dimension, and its size, to the products.
        leaves: Primals.
        pieces: All that will be asked for, in their order.
        width: Of the blocks.
        first: The rows of the first block, where they have been made already.
        engine: The kept graph behind the products, if there is one.
    """

    components = 1
    plain = True

    def __init__(
        self,
        block: Block,
        leaves: Sequence[Tensor],
        pieces: Sequence[Piece],
        width: int,
        *,
        first: Sequence[Tensor] = (),
        engine: GraphEngine | None = None,
    ) -> None:
        self._block = block
        self._leaves = [x.detach() for x in leaves]
        self._pieces = list(pieces)
        self.width: int = width
        self.engine = engine
        self.device = leaves[0].device
        self._starts: dict[int, int] = {}
        self._total = 0
        for piece in pieces:
            self._starts[id(piece)] = self._total
            self._total += piece.offsets.numel()
        self._rows = first
        self._have = (0, width) if first else (0, 0)
        self.given = first if width == self._total else ()

    def bundle(self, pieces: Sequence[Piece]) -> None:
        pass  # all pieces are

    def push(self, piece: Piece, start: int, stop: int) -> Sequence[Tensor]:
        first = self._starts[id(piece)]
        start, stop = first + start, first + stop
        parts: list[Sequence[Tensor]] = []
        while start < stop:
            if not self._have[0] <= start < self._have[1]:
                self._make(start)
            begin, end = self._have
            upto = min(stop, end)
            parts.append([r[start - begin : upto - begin] for r in self._rows])
            start = upto
        return parts[0] if len(parts) == 1 else [torch.cat(part) for part in zip(*parts, strict=True)]

    def _make(self, start: int) -> None:
        """The block of rows that begins at `start`."""
        self._rows = ()
        while True:
            try:
                self._rows = self._block(units(self._pieces, start, self.width, self._leaves), self.width)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.width == 1:
                    raise
                self.width = max(1, self.width // 2)
                continue
            self._have = start, min(start + self.width, self._total)
            return

    def bytes_per_vector(self) -> int:
        return 1  # its width is settled


def units(pieces: Sequence[Piece], start: int, width: int, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Unit vectors start ... start + width − 1 of those of all pieces in their order; then zeros."""
    blocks = [x.new_zeros((width, x.numel())) for x in leaves]
    first = 0
    for piece in pieces:
        count = piece.offsets.numel()
        begin, end = max(start, first), min(start + width, first + count)
        if begin < end:
            piece.mark(blocks[piece.leaf][begin - start : end - start], begin - first, end - first)
        first += count
    return [block.reshape((width, *x.shape)) for block, x in zip(blocks, leaves, strict=True)]
