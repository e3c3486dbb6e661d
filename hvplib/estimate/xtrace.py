"""XTrace: a sketch of A that serves for its own samples."""

from __future__ import annotations

import torch
from torch import Tensor

from hvplib.estimate.decay import growth
from hvplib.estimate.exchangeable import Terms
from hvplib.estimate.pairs import Pairs, covariance, left_out
from hvplib.estimate.probes import Probes
from hvplib.estimate.products import Products
from hvplib.estimate.ranges import Range, RangeSketch
from hvplib.krylov.host import to_device, to_host

__all__ = ["XTraceSketch"]


class XTraceSketch(RangeSketch):
    """t_i = tr(Q_iᵀA Q_i) + f u_iᵀA u_i / u_iᵀu_i, u_i = (I − Q_i Q_iᵀ) ω_i.

    Q_i is a basis of A ω_j, j ≠ i, and f the dimension of its complement: the direction of u_i is uniform in
    that, and its length, which tells nothing, is left out.

    With Q = basis of all, Q_i Q_iᵀ = Q (I − s_i s_iᵀ) Qᵀ.
    """

    def __init__(self, products: Products, probes: Probes) -> None:
        super().__init__(Range(products, probes))
        self._n = products.operator.shape[0]

    def terms(self) -> Terms:
        found = self._range
        Q, Z, B = found.Q, found.Z, found.B
        k, r = found.Omega.shape[1], Q.shape[1]
        W, H = to_host(Q.mT @ found.Omega, Q.mT @ Z)
        pairs = Pairs(left_out(B, r))
        S = pairs.S
        G = W - S * (S * W).sum(0)
        U, AU = found.Omega - Q @ to_device(G, Q), found.Y - Z @ to_device(G, Z)
        lengths, forms, left, right = to_host(_dots(U, U), _dots(U, AU), Q.mT @ AU, Z.mT @ U)
        free = self._n - r + (r == k)  # dimension of the complement of Q_i
        base = H.trace() - (S * (H @ S)).sum(0)
        terms = base + _scaled(free, forms, lengths)
        if r < k:
            return Terms(terms, torch.zeros((), dtype=torch.float64), 1.0)
        # The same with Q_ij and u_ij = u_i + a_ij Q s_ij, for all pairs.
        a, h = pairs.along(W), pairs.form(H)
        crossed = forms.unsqueeze(1) + a * (pairs.along(left) + pairs.along(right)) + a.square() * h
        both = base.unsqueeze(1) - h + _scaled(free + 1, crossed, lengths.unsqueeze(1) + a.square())
        return Terms(terms, covariance(terms.unsqueeze(1) - both), growth(terms, both))


def _dots(X: Tensor, Y: Tensor) -> Tensor:
    """x_iᵀy_i, summed in float64."""
    found: Tensor = torch.linalg.vecdot(X.double(), Y.double(), dim=0)
    return found


def _scaled(free: int, forms: Tensor, lengths: Tensor) -> Tensor:
    """The trace over a complement of dimension f, from uᵀA u and uᵀu of a random u in it."""
    return torch.where(lengths > 0, free * forms / lengths, 0.0) if free > 0 else torch.zeros_like(forms)
