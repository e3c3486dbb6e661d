"""Singular triplets from a span that nearly holds them, and the symmetric operators that have them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hvplib.eigen.recomputed import floor, unit
from hvplib.krylov.inner import EUCLIDEAN
from hvplib.operators.base import Operator

__all__ = ["Normal", "Triplets", "Unsquared", "improved", "measured", "no_triplets", "scale_of"]


@dataclass(frozen=True)
class Triplets:
    """B v ≈ σ u and Bᵀ u ≈ σ v, for a B that has at least as many rows as columns.

    Attributes:
        left, right: u and v as columns.
        values: σ (k,), on the CPU, float64, descending.
        norms: ‖B v − σ u‖ and ‖Bᵀ u − σ v‖ (k, 2), likewise.
    """

    left: Tensor
    right: Tensor
    values: Tensor
    norms: Tensor

    def tolerances(self, rtol: float) -> Tensor:
        """What the residual norms may be."""
        return (rtol * self.values).clamp(min=self.rounding)

    @property
    def rounding(self) -> float:
        """What rounding leaves of a residual."""
        largest = float(self.values[0]) if self.values.numel() else 0.0
        return floor(self.left.shape[0] + self.right.shape[0], self.left.dtype) * largest

    def converged(self, rtol: float) -> Tensor:
        """Which of them have."""
        return self.mean_norms <= self.tolerances(rtol)

    @property
    def hidden(self) -> float:
        """How much larger than the last value another may be without that rounding shows it in BᵀB."""
        first, last = float(self.values[0]), float(self.values[-1])
        return math.hypot(last, math.sqrt(floor(self.right.shape[0], self.right.dtype)) * first) - last

    @property
    def mean_norms(self) -> Tensor:
        """‖[[0, B], [Bᵀ, 0]] x − σ x‖ for the unit vector x = (u, v) / √2."""
        return self.norms.square().mean(1).sqrt()


class Unsquared(Operator):
    """(u, v) ↦ (B v, Bᵀ u), with the eigenvalues ±σ and zeros."""

    def __init__(self, operator: Operator) -> None:
        size = sum(operator.shape)
        super().__init__((size, size), operator.torch_dtype, operator.device, symmetric=True)
        self.operator = operator

    def _matmat_torch(self, X: Tensor) -> Tensor:
        u, v = X.mT.split_with_sizes(self.operator.shape, dim=1)
        return torch.cat([self.operator._product(v.mT).mT, self.operator._rproduct(u.mT).mT], dim=1).mT


class Normal(Operator):
    """x ↦ BᵀB x / scale², with a scale that keeps the squares within the range of the dtype."""

    def __init__(self, operator: Operator, scale: float) -> None:
        size = operator.shape[1]
        super().__init__((size, size), operator.torch_dtype, operator.device, positive_semidefinite=True)
        self.operator = operator
        self.scale = scale

    def _matmat_torch(self, X: Tensor) -> Tensor:
        return self.operator._rproduct(self.operator._product(X) / self.scale) / self.scale


def scale_of(operator: Operator) -> float:
    """A power of two near the entries of a product with a random unit vector, or 1."""
    x = torch.randn(operator.shape[1], 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return unit(operator._product((x / x.norm()).to(operator.device, operator.torch_dtype)))


def improved(B: Operator, V: Tensor) -> Triplets | None:
    """Triplets from the span of V (n, k), by way of B and back; None where a product is not finite.

    u spans B V, and v spans Bᵀ u: what V had of the null space of B is gone.
    """
    BV = B._product(V)
    if not bool(BV.isfinite().all()):
        return None
    left = torch.linalg.svd(BV, full_matrices=False).U
    BtU = B._rproduct(left)
    if not bool(BtU.isfinite().all()):
        return None
    right, _, turn = torch.linalg.svd(BtU, full_matrices=False)
    return measured(B, left @ turn.mT, right, BtU @ turn.mT)


def measured(B: Operator, left: Tensor, right: Tensor, BtU: Tensor | None = None) -> Triplets | None:
    """Values and true residual norms of unit vectors; None where a product is not finite."""
    BV = B._product(right)
    BtU = B._rproduct(left) if BtU is None else BtU
    if not bool(BV.isfinite().all() and BtU.isfinite().all()):
        return None
    values = EUCLIDEAN.columns(left, BV)
    residuals = BV - left * values, BtU - right * values
    lengths = [torch.linalg.vector_norm(R, dim=0, dtype=torch.float64).cpu() for R in residuals]
    # A value of zero may come out as a rounding below it.
    values = values.to("cpu", torch.float64).clamp(min=0)
    order = values.argsort(descending=True, stable=True)
    place = order.to(left.device)
    norms = torch.stack(lengths, dim=1)[order]
    return Triplets(left.mT[place].mT, right.mT[place].mT, values[order], norms)


def no_triplets(B: Operator) -> Triplets:
    """Where there are none to give."""
    nothing = torch.zeros(0, 2, dtype=torch.float64)
    left, right = (torch.zeros(0, size, dtype=B.torch_dtype, device=B.device).mT for size in B.shape)
    return Triplets(left, right, nothing[:, 0], nothing)
