"""Where the columns of a Krylov basis are kept: in the vectors' own memory, or in another dtype or place."""

from __future__ import annotations

import torch
from torch import Tensor

from hvplib.krylov.inner import Inner

__all__ = ["Basis"]

# Entries of a vector that a rotation works on at a time: the part of the basis above them stays in the cache.
_ROWS = 8192
# Columns that travel together from where they are stored to where vectors lie.
_COLUMNS = 8


class Basis:
    """Q = (q_1 ... q_m): columns of length n, stored as the rows of a contiguous (m, n) tensor.

    Args:
        capacity: m.
        like: A block (n, k): vectors have its n, dtype and device.
        dtype: Of the storage; that of the vectors by default. Halving it halves the memory, and leaves the
            basis orthogonal to its own precision only.
        device: Of the storage; that of the vectors by default. On the CPU for vectors on a GPU, the memory is
            pinned, and columns travel in groups at each use.
    """

    def __init__(
        self,
        capacity: int,
        like: Tensor,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.dtype, self.device = like.dtype, like.device
        place = device or like.device
        pinned = place.type == "cpu" and like.device.type == "cuda"
        self.rows = torch.empty(
            capacity, like.shape[0], dtype=dtype or like.dtype, device=place, pin_memory=pinned
        )
        self._at_home = self.rows.dtype == self.dtype and self.rows.device == self.device

    @property
    def capacity(self) -> int:
        """m, the number of columns there is room for."""
        return self.rows.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory of the storage."""
        return self.rows.numel() * self.rows.element_size()

    def __getitem__(self, columns: slice) -> Tensor:
        """Columns as a block (n, k) of the vectors' dtype on their device: a view where it can be."""
        if self._at_home:
            return self.rows[columns].mT
        return self.rows[columns].to(device=self.device, dtype=self.dtype, non_blocking=True).mT

    def put(self, start: int, X: Tensor) -> None:
        """Store the block X (n, k) as columns start ... start + k."""
        if X.shape[1] == 1:  # as vectors: of a matrix of one row, torch copies entry by entry
            self.rows[start].copy_(X[:, 0])
        else:
            self.rows[start : start + X.shape[1]].copy_(X.mT)

    def coefficients(self, W: Tensor, first: int, last: int, inner: Inner) -> Tensor:
        """⟨q_i, w_j⟩ for the columns first ... last: (last − first, k)."""
        if self._at_home or first == last:
            return inner(self[first:last], W)
        return torch.cat([inner(self[part], W) for part in _parts(first, last)])

    def subtract(self, W: Tensor, coefficients: Tensor, first: int = 0) -> None:
        """W ← W − Q C, in place: C (count, k) for the columns first ... first + count."""
        last = first + coefficients.shape[0]
        if self._at_home:
            _subtract(W, self[first:last], coefficients)
            return
        for part in _parts(first, last):
            _subtract(W, self[part], coefficients[part.start - first : part.stop - first])

    def combine(self, coefficients: Tensor) -> Tensor:
        """Q C for C (count, k): a new block (n, k)."""
        C = coefficients.to(device=self.device, dtype=self.dtype)
        X = torch.zeros(C.shape[1], self.rows.shape[1], dtype=self.dtype, device=self.device)
        for part in _parts(0, C.shape[0], whole=self._at_home):
            X.addmm_(C[part].mT, self[part].mT)
        return X.mT

    def rotate(self, coefficients: Tensor, *, first: int = 0) -> None:
        """(q_first ... ) ← Q C, in place: C (count, k) mixes columns first ... first + count into k of them.

        Only a strip of rows is in two places at once.
        """
        count, kept = coefficients.shape
        C = coefficients.mT.to(device=self.rows.device, dtype=self.rows.dtype).contiguous()
        turned = C.new_empty(kept, min(_ROWS, self.rows.shape[1]))
        for start in range(0, self.rows.shape[1], _ROWS):
            strip = self.rows[first : first + count, start : start + _ROWS]
            width = strip.shape[1]
            strip[:kept] = torch.mm(C, strip, out=turned[:, :width])


def _parts(first: int, last: int, *, whole: bool = False) -> list[slice]:
    step = max(last - first, 1) if whole else _COLUMNS
    return [slice(start, min(start + step, last)) for start in range(first, last, step)]


def _subtract(W: Tensor, Q: Tensor, coefficients: Tensor) -> None:
    if W.shape[1] == 1:
        W.addmm_(Q, coefficients, alpha=-1)
    else:
        W.mT.addmm_(coefficients.mT, Q.mT, alpha=-1)
