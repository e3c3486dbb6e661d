"""XDiag: a sketch of A that serves for its own samples of the diagonal."""

from __future__ import annotations

import torch
from torch import Tensor

from hvplib.estimate.exchangeable import Terms
from hvplib.estimate.pairs import Pairs, left_out
from hvplib.estimate.probes import Probes
from hvplib.estimate.products import Products
from hvplib.estimate.ranges import Range, RangeSketch
from hvplib.krylov.host import to_device

__all__ = ["XDiagSketch"]


class XDiagSketch(RangeSketch):
    """t_i = diag(Q_i Q_iᵀA) + z_i ∘ (I − Q_i Q_iᵀ) A z_i, with Q_i a basis of A z_j, j ≠ i; z of ±1.

    With Q = basis of all, Q_i Q_iᵀ = Q (I − s_i s_iᵀ) Qᵀ, x_i = Q s_i and y_i = AᵀQ s_i, both are simple:
    t_i = diag(Q QᵀA) + x_i ∘ (ρ_i z_i − y_i), where A z_i = Q b_i and ρ_i = s_iᵀb_i.
    """

    def __init__(self, products: Products, probes: Probes) -> None:
        # Q QᵀA wants QᵀA = (AᵀQ)ᵀ.
        super().__init__(Range(products, probes, transpose=not products.operator.symmetric))

    def terms(self) -> Terms:
        found = self._range
        Q, Z, signs = found.Q.double(), found.Z.double(), found.Omega.double()
        seen = (Q * Z).sum(1)
        if self.exhausted:
            return Terms(seen.expand(found.size, -1), torch.zeros_like(seen))
        pairs = Pairs(left_out(found.B, Q.shape[1]))
        S = to_device(pairs.S, Q)
        X, Y = Q @ S, Z @ S
        rho = to_device((pairs.S * found.B).sum(0), Q)
        return Terms((seen.unsqueeze(1) + X * (rho * signs - Y)).mT, _covariance(X, Y, signs, pairs, found.B))


def _covariance(X: Tensor, Y: Tensor, signs: Tensor, pairs: Pairs, B: Tensor) -> Tensor:
    """Mean over i ≠ j of (t_i − t_ij)(t_j − t_ji), entry by entry; see `Terms`.

    t_i − t_ij = x_ij ∘ (y_ij − σ_ij z_i), with x_ij = Q s_ij, y_ij = AᵀQ s_ij and σ_ij = s_ijᵀb_i.
    """
    k = X.shape[1]
    g, root, sigma = (to_device(part, X) for part in (pairs.g, pairs.root, pairs.along(B)))
    total = torch.zeros_like(X[:, 0])
    for i in range(k - 1):
        j = slice(i + 1, k)
        gi, ri, x, y = g[i, j], root[i, j], X[:, i : i + 1], Y[:, i : i + 1]
        first = ri * (X[:, j] - gi * x) * (ri * (Y[:, j] - gi * y) - sigma[i, j] * signs[:, i : i + 1])
        second = ri * (x - gi * X[:, j]) * (ri * (y - gi * Y[:, j]) - sigma[j, i] * signs[:, j])
        total += 2 * (first * second).sum(1)
    return total / max(k * (k - 1), 1)
