"""True residuals of given vectors, from a product made for this purpose."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hvplib.krylov.inner import EUCLIDEAN
from hvplib.operators.base import Operator

__all__ = ["Recomputed", "floor", "recomputed", "unit"]


class Recomputed(NamedTuple):
    """Rayleigh quotients and residual norms; (k,) on the CPU, float64.

    Attributes:
        values: θ = xᵀA x / xᵀB x.
        residual_norms: ‖A x − θ B x‖; infinite where the product is not finite.
        converged: Whether that is within max(rtol |θ| ‖B x‖, floor ‖A‖ ‖x‖).
        norm: Largest ‖A x‖ / ‖x‖, or what was known before.
    """

    values: Tensor
    residual_norms: Tensor
    converged: Tensor
    norm: float


def recomputed(
    operator: Operator, X: Tensor, mass: Operator | None, rtol: float, norm: float = 0.0
) -> Recomputed:
    """The Rayleigh quotients of the columns of X, and how nearly they are eigenpairs.

    One product with A for each column, and one with B.

    Args:
        operator: A.
        X: (n, k).
        mass: B; I if None.
        rtol: Relative tolerance.
        norm: A lower bound of ‖A‖ that is known already.
    """
    AX = operator._product(X)
    BX = X if mass is None else mass._product(X)
    scale = unit(AX)
    AX = AX / scale
    values = EUCLIDEAN.columns(X, AX) / EUCLIDEAN.columns(X, BX)
    blocks = (AX - BX * values, X, BX, AX)
    lengths = [torch.linalg.vector_norm(block, dim=0, dtype=torch.float64) for block in blocks]
    values, residuals, sizes, weighed, images = torch.stack([values, *lengths]).cpu()
    residuals = residuals.nan_to_num(nan=math.inf)
    norm = max([norm / scale, *(images / sizes).nan_to_num(nan=0.0, posinf=0.0).tolist()])
    rounding = floor(operator.shape[0], X.dtype) * norm * sizes
    tolerances = torch.maximum(rtol * values.abs() * weighed, rounding)
    return Recomputed(values * scale, residuals * scale, residuals <= tolerances, norm * scale)


def floor(n: int, dtype: torch.dtype) -> float:
    """What rounding leaves of a residual, relative to ‖A‖: 10 min(√n, 100) roundings."""
    return float(torch.finfo(dtype).eps * 10 * min(n**0.5, 100.0))


def unit(X: Tensor) -> float:
    """The power of two near the largest entry, if that is finite and not zero; else 1.

    What is divided by it has squares that neither overflow nor vanish, and keeps all its digits.
    """
    largest = float(X.abs().max()) if X.numel() else 0.0
    return 2.0 ** (math.frexp(largest)[1] - 1) if 0 < largest < math.inf else 1.0
