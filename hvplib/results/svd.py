"""What `svds` returns: singular triplets, each with bounds, and how sure it is that none is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hvplib.results.status import Status

__all__ = ["SingularResult"]


@dataclass(frozen=True)
class SingularResult:
    """A v_i ≈ σ_i u_i and Aᵀ u_i ≈ σ_i v_i for i = 1 ... k, with orthonormal u and orthonormal v.

    Evidence is on the CPU, in float64.

    Attributes:
        singular_values: σ (k,), the largest first. A NumPy array if A or v0 was one, else a tensor. There are
            fewer than k if the iteration ended before it had so many.
        left_vectors: u as columns (m, k), of the same kind. Of σ = 0 they complete the others.
        right_vectors: v as columns (n, k).
        residual_norms: ‖A v − σ u‖ and ‖Aᵀ u − σ v‖ (k, 2), recomputed from products made for it.
        converged: Which triplets have both within the tolerance (k,).
        enclosures: Intervals (k, 2), each of which contains a singular value for certain, up to an allowance
            for rounding that is included: |σ_A − σ| ≤ max(‖A v − σ u‖, ‖Aᵀ u − σ v‖).
        gap_bounds: Bounds (k,) on |σ_A − σ| from the distance to the other singular values, usually far
            smaller. They hold where none was missed that is larger than the last by `miss_resolution`,
            so except with the `miss_probability`; NaN where no gap is known.
        status: How the iteration ended.
        miss_probability: A bound on the probability that a singular value was missed which is larger than
            the last one by `miss_resolution` or more; 0 if the whole matrix was formed, NaN if unknown.
        miss_resolution: See there.
        num_matvecs: Products with A and with Aᵀ spent, one for each column.
        matvecs: The same by purpose.
        num_iter: Steps made.
        method: The settings that were used.
        note: What the status alone does not say.
    """

    singular_values: Any
    left_vectors: Any
    right_vectors: Any
    residual_norms: Tensor
    converged: Tensor
    enclosures: Tensor
    gap_bounds: Tensor
    status: Status
    miss_probability: float
    miss_resolution: float
    num_matvecs: int
    matvecs: Mapping[str, int]
    num_iter: int
    method: Any
    note: str = ""

    def __str__(self) -> str:
        lines = [f"{len(self.singular_values)} singular triplets by {self.method}: {self.status}"]
        if self.note:
            lines.append(self.note)
        lines.append("   singular value   ‖Av − σu‖  ‖Aᵀu − σv‖  certain to ±   likely to ±")
        rows = zip(
            self.singular_values,
            self.residual_norms.tolist(),
            self.residual_norms.amax(1).tolist(),
            self.gap_bounds.tolist(),
            self.converged.tolist(),
            strict=True,
        )
        for value, (right, left), radius, gap, done in rows:
            mark = "" if done else "  not converged"
            lines.append(f"{float(value):17.9g} {right:11.1e} {left:11.1e} {radius:13.1e} {gap:13.1e}{mark}")
        spent = ", ".join(f"{count} {purpose}" for purpose, count in self.matvecs.items())
        lines.append(f"{self.num_matvecs} products ({spent})")
        return "\n".join(lines)
