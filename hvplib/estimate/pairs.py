"""The second of two directions to be left out, made orthogonal to the first: for all pairs at once."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Pairs", "covariance", "left_out"]


def left_out(B: Tensor, rank: int) -> Tensor:
    """Unit s_i (r, k) with span(B_j, j ≠ i) = s_i^⊥, for B (r, k) of full row rank r = `rank`.

    Zero where r < k: then the other columns span all, for almost all B.
    """
    if rank < B.shape[1]:
        return torch.zeros_like(B)
    S: Tensor = torch.linalg.inv(B / torch.linalg.vector_norm(B, dim=0)).mT
    lengths: Tensor = torch.linalg.vector_norm(S, dim=0)
    return S / lengths


class Pairs:
    """s_ij = (s_j − g_ij s_i) / √(1 − g_ij²), with g = SᵀS, for unit columns s of S.

    s_i and s_ij span what is left out with i and j both.

    Args:
        S: (r, k), float64.
    """

    def __init__(self, S: Tensor) -> None:
        self.S = S
        self.g = S.mT @ S
        rest = 1 - self.g.square()
        rest.fill_diagonal_(1.0)
        # Two directions never coincide but by rounding.
        self.root = rest.clamp(min=torch.finfo(S.dtype).eps).rsqrt()

    def along(self, X: Tensor) -> Tensor:
        """s_ijᵀ x_i (k, k) for columns x of X (r, k)."""
        M = X.mT @ self.S
        return (M - self.g * M.diagonal().unsqueeze(1)) * self.root

    def form(self, H: Tensor) -> Tensor:
        """s_ijᵀ H s_ij (k, k)."""
        M = self.S.mT @ H @ self.S
        d = M.diagonal()
        return (d - self.g * (M + M.mT) + self.g.square() * d.unsqueeze(1)) * self.root.square()


def covariance(differences: Tensor) -> Tensor:
    """Mean over i ≠ j of D_ij D_ji."""
    k = differences.shape[0]
    products = differences * differences.mT
    return (products.sum() - products.diagonal().sum()) / max(k * (k - 1), 1)
