"""What `solve` returns: the solution, and the evidence for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hvplib.results.common import OfColumns, Printed, by_purpose
from hvplib.results.status import Status

__all__ = ["Solution"]


@dataclass(frozen=True, repr=False, eq=False)
class Solution(OfColumns, Printed):
    """x_j with (A + δ_j I) x_j = b_j up to residuals that were recomputed, j = 1 ... k.

    Printed, it reads as a short report.

    Attributes:
        x: Like b: an array, a tensor or a pytree, of one vector or k.
        statuses: How each column ended. CONVERGED stands only where `residual_norms <= tolerances`.
        residual_norms: ‖b_j − (A + δ_j I) x_j‖ (k,), from products with x itself; float64, on the CPU.
        tolerances: max(rtol ‖b_j‖, atol) (k,), float64, on the CPU.
        num_iter: Steps made, restarts included.
        matvecs: Products made, by purpose: "start" (the residual of x0), "iteration", "refinement" (steps
            after a restart from the recomputed residual), "confirmation" (recomputed residuals) and
            "evidence" (of negative curvature or of an inconsistent system).
        history: Residual norms (num_iter + 1, k) as the iteration estimated them; float64, on the CPU.
        method: The method with the settings that were used.
        reason: Why this method.
        direction: Like x: directions p of negative or zero curvature, zero in columns that met none; None if
            none did.
        curvature: pᵀ(A + δ_j I) p / pᵀp (k,) from one more product with p, 0 where it is zero within
            rounding, NaN in columns that met none; float64, on the CPU. None if none did.
        normal_residuals: ‖A z_j‖ / (‖A‖ ‖z_j‖) (k,) of each column that no x can solve, with z_j its residual
            r_j, or P r_j with a preconditioner P, and a lower bound for ‖A‖; NaN in other columns, None if
            there is no such column; float64, on the CPU. The smaller it is, the nearer z_j is to a null
            vector of A, and x_j to the minimiser of ‖b_j − A x‖, in the norm of P.
    """

    x: Any
    statuses: tuple[Status, ...]
    residual_norms: Tensor
    tolerances: Tensor
    num_iter: int
    matvecs: dict[str, int]
    history: Tensor
    method: Any
    reason: str
    direction: Any | None = None
    curvature: Tensor | None = None
    normal_residuals: Tensor | None = None

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("method", f"{self.method} ({self.reason})"),
            ("columns", self._columns()),
            ("residual", self._residual()),
            ("curvature", self._curvature()),
            ("singular", self._singular()),
            ("steps", str(self.num_iter)),
            ("products", by_purpose(self.matvecs)),
        ]

    def _columns(self) -> str:
        if len(self.statuses) == 1:
            return ""
        counts = Counter(status.name.lower().replace("_", " ") for status in self.statuses)
        return f"{len(self.statuses)}: " + ", ".join(f"{count} {name}" for name, count in counts.items())

    def _residual(self) -> str:
        excess = self.residual_norms / self.tolerances.clamp(min=float.fromhex("0x1p-1022"))
        worst = int(excess.nan_to_num(float("inf")).argmax())
        where = f" in column {worst}, the worst" if len(self.statuses) > 1 else ""
        return f"{self.residual_norms[worst]:.3g}, tolerance {self.tolerances[worst]:.3g}{where}"

    def _curvature(self) -> str:
        if self.curvature is None:
            return ""
        lowest = float(self.curvature.nan_to_num(float("inf")).min())
        return f"{lowest:.3g} along .direction" if lowest < 0 else "zero within rounding along .direction"

    def _singular(self) -> str:
        if self.normal_residuals is None:
            return ""
        largest = float(self.normal_residuals.nan_to_num(0.0).max())
        return f"‖A r‖ = {largest:.2g} ‖A‖ ‖r‖ for the residual r"
