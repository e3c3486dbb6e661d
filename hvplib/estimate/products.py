"""The products of one estimate: counted by what they are for, and what rounding may have done to them."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from hvplib.krylov.host import NonFiniteError
from hvplib.operators.base import Operator

__all__ = ["Products", "lengths"]

# Rounding errors of random signs: a trace or a diagonal is taken to be right to so many eps ‖A‖_F.
_ROUNDING = 32.0


class Products:
    """X ↦ A X, of which so many may be made.

    Attributes:
        operator: A (n, n).
        limit: Most products.
        counts: Columns multiplied, by purpose.
    """

    def __init__(self, operator: Operator, limit: int) -> None:
        self.operator, self.limit = operator, limit
        self.counts: Counter[str] = Counter()
        self._columns = 0
        self._squares = torch.zeros((), dtype=torch.float64, device=operator.device)

    @property
    def total(self) -> int:
        """Columns multiplied so far."""
        return sum(self.counts.values())

    @property
    def left(self) -> int:
        """Columns that may still be multiplied."""
        return max(self.limit - self.total, 0)

    def __call__(self, X: Tensor, purpose: str) -> Tensor:
        """A X (n, k)."""
        self.counts[purpose] += X.shape[1]
        return self.operator._product(X)

    def of_random(self, X: Tensor, purpose: str) -> Tensor:
        """A X for random directions X (n, k), which tell the size of A as well."""
        Y = self(X, purpose)
        growth = torch.linalg.vector_norm(Y, dim=0).double() / torch.linalg.vector_norm(X, dim=0).double()
        self._columns += X.shape[1]
        self._squares = self._squares + growth.square().sum()
        return Y

    def transposed(self, X: Tensor, purpose: str) -> Tensor:
        """Aᵀ X (n, k)."""
        self.counts[purpose] += X.shape[1]
        return self.operator._rproduct(X)

    def frobenius(self) -> float:
        """Estimate of ‖A‖_F: E ‖A x‖² = ‖A‖_F² ‖x‖² / n for random directions x."""
        return math.sqrt(self.operator.shape[1] * float(self._squares) / max(self._columns, 1))

    def rounding(self) -> float:
        """Allowance for what rounding may have done to a trace, or to the norm of a diagonal."""
        return _ROUNDING * torch.finfo(self.operator.torch_dtype).eps * self.frobenius()


def lengths(Y: Tensor) -> list[float]:
    """Norms of the columns of Y.

    Raises:
        NonFiniteError: One is NaN or infinite.
    """
    found: list[float] = torch.linalg.vector_norm(Y, dim=0).tolist()
    if not all(map(math.isfinite, found)):
        raise NonFiniteError
    return found
