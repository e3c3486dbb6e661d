"""Inner products: all that an iteration needs to know of where its vectors are stored."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["EUCLIDEAN", "Inner", "Weighted"]

Reduce = Callable[[Tensor], Tensor]

# Rows from which float32 sums are made in parts, and of how many rows each.
_LONG, _SHORT = 2**16, 2**12


class Inner:
    """⟨x, y⟩ = xᵀ y, of the columns of two blocks (n, k) and (n, l).

    A kernel forms linear combinations of columns by itself; whatever sums over the n rows goes through here.
    So the rows can be shared out between processes: each holds some of them, and `reduce` adds up what each
    finds for its own.

    Args:
        reduce: Sums a small tensor over all who hold a part of the rows; must return the same bits to each.
            None where one process holds all.
    """

    def __init__(self, reduce: Reduce | None = None) -> None:
        self._reduce = reduce

    def __call__(self, X: Tensor, Y: Tensor) -> Tensor:
        """⟨x_i, y_j⟩ for all pairs: (k, l)."""
        return self._reduced(_products(X, Y))

    def columns(self, X: Tensor, Y: Tensor) -> Tensor:
        """⟨x_i, y_i⟩ column by column: (k,)."""
        # Of a single column, the product of matrices needs no memory for what is summed.
        if X.shape[1] == 1:
            sums = _products(X, Y).reshape(-1)
        elif _is_long(X):
            pairs = zip(torch.split(X, 1, dim=1), torch.split(Y, 1, dim=1), strict=True)
            sums = torch.cat([_products(x, y).reshape(-1) for x, y in pairs])
        else:
            sums = torch.linalg.vecdot(X, Y, dim=0)
        return self._reduced(sums)

    def _reduced(self, sums: Tensor) -> Tensor:
        return sums if self._reduce is None else self._reduce(sums)


def _is_long(X: Tensor) -> bool:
    """Whether a sum over the rows in X's own digits is too coarse."""
    return X.dtype == torch.float32 and X.shape[0] >= _LONG


def _products(X: Tensor, Y: Tensor) -> Tensor:
    """Xᵀ Y. The sums of many float32 numbers are made of short ones, which are added up in float64.

    One float32 sum of 22 million squares is wrong by 5 % in torch 2.13's product of matrices on the CPU,
    and of a million by 5e-4.
    """
    if not _is_long(X):
        return X.mT @ Y
    count = X.shape[0] // _SHORT
    rows = count * _SHORT
    parts = X[:rows].mT.view(-1, count, _SHORT).transpose(0, 1)  # views: nothing is copied
    others = Y[:rows].mT.view(-1, count, _SHORT).permute(1, 2, 0)
    sums = torch.bmm(parts, others).sum(0, dtype=torch.float64)
    return (sums + (X[rows:].mT @ Y[rows:])).to(X.dtype)


class Weighted(Inner):
    """⟨x, y⟩ = xᵀ M y for a symmetric positive definite M, given by its product with a block.

    A product with M is spent for each column on the right.
    """

    def __init__(self, matmat: Callable[[Tensor], Tensor], reduce: Reduce | None = None) -> None:
        super().__init__(reduce)
        self._matmat = matmat

    def __call__(self, X: Tensor, Y: Tensor) -> Tensor:
        return super().__call__(X, self._matmat(Y))

    def columns(self, X: Tensor, Y: Tensor) -> Tensor:
        return super().columns(X, self._matmat(Y))


EUCLIDEAN = Inner()
