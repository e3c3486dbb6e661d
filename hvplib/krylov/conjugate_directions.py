"""Conjugate directions out of a Lanczos process: its vectors are kept, and know their products."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hvplib.krylov.quadratic_process import MetricLanczos

__all__ = ["conjugate_directions"]


def conjugate_directions(process: MetricLanczos, count: int) -> tuple[Tensor, Tensor] | None:
    """S and H S (n, j) with SᵀH S = I: at most `count` of the directions of conjugate gradients.

    With T = L D Lᵀ the columns p of V L⁻ᵀ are conjugate: p_k = v_k − l_k p_(k−1), and their products need no
    more than two vectors, H p_k = d_k u_k + β_k u_(k+1).
    Those are taken that come before the first without positive curvature, spread evenly over the process, and
    the last of them. Curvature counts as positive if it is not very small beside ‖p‖_M ‖H p‖_M⁻¹.

    Args:
        process: The vectors, and T.
        count: Most directions.

    Returns:
        None where there is no such direction.
    """
    pivots, ratios = _factored(process)
    if not pivots:
        return None
    last = len(pivots)
    chosen = [(i + 1) * last // min(count, last) - 1 for i in range(min(count, last))]
    roots = [math.sqrt(pivots[k]) for k in chosen]
    coordinates = torch.tensor(
        [_column(k, root, ratios) for k, root in zip(chosen, roots, strict=True)], dtype=torch.float64
    )
    return process.basis.combine(coordinates.mT), _products(process, chosen, roots)


def _column(k: int, root: float, ratios: list[float]) -> list[float]:
    """Column k of L⁻ᵀ, over √d."""
    column, entry = [0.0] * len(ratios), 1 / root
    for i in range(k, -1, -1):
        column[i] = entry
        entry *= -ratios[i]
    return column


def _factored(process: MetricLanczos) -> tuple[list[float], list[float]]:
    """d and l as far as d is positive."""
    pivots: list[float] = []
    ratios: list[float] = []
    pivot, step = math.inf, 0.0  # and ‖p‖²
    least = torch.finfo(process.dtype).eps ** 0.75
    after = [*process.couplings, process.coupling][1:]
    for diagonal, coupling, following in zip(process.diagonal, process.couplings, after, strict=True):
        ratio = coupling / pivot
        pivot = diagonal - ratio * coupling
        step = 1.0 + ratio * ratio * step
        if not pivot > least * math.sqrt(step) * math.hypot(pivot, following):
            break
        pivots.append(pivot)
        ratios.append(ratio)
    return pivots, ratios


def _products(process: MetricLanczos, chosen: list[int], roots: list[float]) -> Tensor:
    """H p / √d of the chosen directions (n, j)."""
    count = process.count
    after = [*process.couplings[1:], 0.0]
    beside = [after[k] / root for k, root in zip(chosen, roots, strict=True)]
    own, following = process.basis.duals(chosen), process.basis.duals([min(k + 1, count - 1) for k in chosen])
    Y = own.mul_(own.new_tensor(roots)).addcmul_(following, own.new_tensor(beside))
    if chosen[-1] == count - 1 and process.following is not None:
        Y[:, -1:].add_(process.following, alpha=process.coupling / roots[-1])
    return Y
