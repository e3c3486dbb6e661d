"""Rayleigh–Ritz on vectors that are nearly eigenvectors, turning no more of them than has to be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["decoupling"]

# What a coupling may take of the tolerance of the pairs that it couples, all of a pair's couplings together.
_SHARE = 0.1
# Rotations for each pair of columns, at most; two or three are usual where columns couple at all.
_SWEEPS = 10


def decoupling(T: Tensor, tolerances: Tensor) -> Tensor:
    """G orthogonal with |GᵀT G|_ij ≤ 0.1 min(τ_i, τ_j) / √l for i ≠ j.

    For T = XᵀA X, the columns of X are told apart as well as Rayleigh–Ritz would: of the residual of a column
    what lies in the span of the others is gone, and what is outside of it is turned along. That is why no
    more is turned than has to be: where two columns couple by less, one that has converged to rounding does
    not take a part of the residual of one that has barely converged; and where they couple by more, the angle
    is about the coupling over the distance of their values, so that only columns as good as equal in value,
    and so in tolerance, mix by more than a little.

    By Jacobi rotations, the largest coupling first (Jacobi 1846; Golub and Van Loan, Matrix Computations,
    2013, section 8.5).

    Args:
        T: (l, l), symmetric, on the CPU, float64.
        tolerances: τ (l,), what the residual norms of the columns may be.

    Returns:
        G (l, l).

    Example:
        >>> T = torch.tensor([[2.0, 1e-3, 0.0], [1e-3, 1.0, 1e-9], [0.0, 1e-9, 1.0]], dtype=torch.float64)
        >>> G = decoupling(T, torch.full((3,), 1e-6, dtype=torch.float64))
        >>> bool((G.mT @ T @ G)[0, 1].abs() < 1e-7), G[2].tolist()
        (True, [0.0, 0.0, 1.0])
    """
    size = T.shape[0]
    T, G = T.clone(), torch.eye(size, dtype=T.dtype)
    allowed = _SHARE / math.sqrt(max(size, 1)) * torch.minimum(tolerances.unsqueeze(1), tolerances)
    for _ in range(_SWEEPS * size * (size - 1) // 2):
        excess = (T.abs() / allowed).fill_diagonal_(0.0)
        worst = int(excess.argmax())
        i, j = divmod(worst, size)
        if not float(excess[i, j]) > 1:
            break
        pair = [i, j]
        turn = _rotation(float(T[i, i]), float(T[j, j]), float(T[i, j])).to(T)
        T[:, pair] = T[:, pair] @ turn
        T[pair] = turn.mT @ T[pair]
        T[i, j] = T[j, i] = 0.0
        G[:, pair] = G[:, pair] @ turn
    return G


def _rotation(a: float, b: float, c: float) -> Tensor:
    """The smaller of the rotations that make [[a, c], [c, b]] diagonal."""
    gap = a - b
    angle = math.atan(2 * c / gap) / 2 if gap else math.copysign(math.pi / 4, c)
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
