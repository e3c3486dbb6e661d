"""XNysTrace: Nyström approximations of a positive semidefinite A that serve for their own samples."""

from __future__ import annotations

import torch
from torch import Tensor

from hvplib.estimate.decay import growth
from hvplib.estimate.exchangeable import IndefiniteError, Terms
from hvplib.estimate.pairs import Pairs, covariance
from hvplib.estimate.probes import Probes
from hvplib.estimate.products import Products, lengths
from hvplib.krylov.host import to_device, to_host

__all__ = ["XNysTraceSketch"]

# What rounding may do to an eigenvalue of QᵀA Q, in eps of the longest product; and how much of that is added
# to A and taken off the trace again, so that it stays definite.
_NOISE, _SHIFT = 100.0, 8.0


class XNysTraceSketch:
    """t_i = tr(A_i) + f u_iᵀ(A − A_i) u_i / u_iᵀu_i, A_i = the Nyström approximation from ω_j, j ≠ i.

    u_i is the part of ω_i beside the others, f = n − k + 1 the dimension that it is random in: A − A_i
    vanishes on the others.

    With Ω = Q L, QᵀA Q = CᵀC and T = (C L)⁻ᵀ: the Nyström approximation is F Fᵀ, F = A Q C⁻¹, and A_i is
    F (I − s_i s_iᵀ) Fᵀ with s_i = T e_i / ‖T e_i‖; u_iᵀ(A − A_i) u_i = ‖T e_i‖⁻², u_iᵀu_i = ‖L⁻ᵀ e_i‖⁻².
    """

    exhausted = False

    def __init__(self, products: Products, probes: Probes) -> None:
        self._products, self._probes = products, probes
        operator = products.operator
        self._n = operator.shape[0]
        self._Q = self._Y = torch.zeros(0, self._n, dtype=operator.torch_dtype, device=operator.device).mT
        self._L = torch.zeros(0, 0, dtype=torch.float64)
        self._longest = 0.0

    def grow(self, columns: int) -> None:
        W, had = self._probes.block(columns), self._Q.shape[1]
        C = torch.zeros(had, columns, dtype=torch.float64)
        for _ in range(2):  # twice is enough
            part = self._Q.mT @ W
            W = W - self._Q @ part
            C += part.cpu().double()
        fresh, R = torch.linalg.qr(W)
        Y = self._products.of_random(fresh, "sketch")
        self._longest = max(self._longest, *lengths(Y))
        L = torch.zeros(had + columns, had + columns, dtype=torch.float64)
        L[:had, :had], L[:had, had:], L[had:, had:] = self._L, C, R.cpu().double()
        self._L = L
        self._Q = torch.cat([self._Q.mT, fresh.mT]).mT
        self._Y = torch.cat([self._Y.mT, Y.mT]).mT

    def terms(self) -> Terms:
        k = self._Q.shape[1]
        shift, C = self._factor()
        identity = torch.eye(k, dtype=torch.float64)
        inverse = torch.linalg.solve_triangular(C, identity, upper=True)
        F = torch.linalg.solve_triangular(
            to_device(C, self._Q), self._Y.double() + shift * self._Q.double(), upper=True, left=False
        )
        (gram,) = to_host(F.mT @ F)
        back = torch.linalg.solve_triangular(self._L, identity, upper=True)
        T, N = (back @ inverse).mT, back @ back.mT  # N = (ΩᵀΩ)⁻¹
        sizes = T.square().sum(0)
        pairs = Pairs(T / sizes.sqrt())
        free = self._n - k + 1
        base = gram.trace() - (pairs.S * (gram @ pairs.S)).sum(0)
        n = N.diagonal()
        terms = base + free * n / sizes - self._n * shift
        # The same from all but i and j, for all pairs: inverses without a row and column.
        both_sizes = sizes.unsqueeze(1) / pairs.root.square()
        both_n = n.unsqueeze(1) - N.square() / n
        both = base.unsqueeze(1) - pairs.form(gram) + (free + 1) * both_n / both_sizes - self._n * shift
        return Terms(terms, covariance(terms.unsqueeze(1) - both), growth(terms, both))

    def _factor(self) -> tuple[float, Tensor]:
        """ν and C with QᵀA Q + ν I = CᵀC."""
        (core,) = to_host(self._Q.mT.double() @ self._Y.double())
        core = (core + core.mT) / 2
        eps = torch.finfo(self._Q.dtype).eps
        negative = -min(float(torch.linalg.eigvalsh(core)[0]), 0.0)
        if negative > _NOISE * eps * self._longest:
            raise IndefiniteError
        shift = max(_SHIFT * eps * self._longest, 2 * negative, torch.finfo(torch.float64).tiny)
        core.diagonal().add_(shift)
        return shift, torch.linalg.cholesky(core).mT.contiguous()
