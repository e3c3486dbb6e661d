"""What `funm_multiply` and `quadratic_form` return: the value, and what bounds its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hvplib.results.common import OfColumns, Printed, by_purpose
from hvplib.results.status import Status

__all__ = ["FunctionProduct", "QuadraticForm"]


@dataclass(frozen=True, repr=False, eq=False)
class FunctionProduct(OfColumns, Printed):
    """x_j with ‖f(A) b_j − x_j‖ ≤ errors_j, for the columns j = 1 ... k.

    Evidence is on the CPU, in float64.

    Attributes:
        x: Like b: an array, a tensor or a pytree, of one vector or k.
        errors: (k,), what the Krylov space leaves out and what rounding may do together; NaN where products
            were not finite.
        roundings: What rounding may do (k,), the part of `errors` that more steps cannot reduce.
        certain: Whether `errors` are bounds (k,), or estimates.
        tolerances: max(rtol ‖x_j‖, atol) (k,).
        statuses: How each column ended. ESTIMATED stands only where `errors <= tolerances`.
        ritz_values: The least and the largest Ritz value (k, 2): the spectrum reaches at least so far.
        num_iter: Steps made.
        matvecs: Products made, by purpose: "iteration" and, where no basis was kept, "second pass".
        f: Name of the function.
        method: How it was computed.
        note: What the statuses do not say.
    """

    x: Any
    errors: Tensor
    roundings: Tensor
    certain: Tensor
    tolerances: Tensor
    statuses: tuple[Status, ...]
    ritz_values: Tensor
    num_iter: int
    matvecs: dict[str, int]
    f: str
    method: str
    note: str = ""

    def _head(self) -> str:
        return f"{self.f}(A) b: {self.status}"

    def _rows(self) -> list[tuple[str, str]]:
        kind = "certain" if bool(self.certain.all()) else "estimated"
        low, high = float(self.ritz_values[:, 0].min()), float(self.ritz_values[:, 1].max())
        tolerance = float(self.tolerances.min())
        return [
            ("method", self.method),
            ("error", f"{_largest(self.errors):.3g} at most, {kind}; tolerance {tolerance:.3g}"),
            ("spectrum", f"reaches from {low:.6g} or below to {high:.6g} or above"),
            ("products", by_purpose(self.matvecs)),
            ("note", self.note),
        ]


@dataclass(frozen=True, repr=False, eq=False)
class QuadraticForm(OfColumns):
    """lower_j ≤ b_jᵀ f(A) b_j ≤ upper_j, for the columns j = 1 ... k.

    All on the CPU, in float64.

    Attributes:
        values: The best value within the bounds (k,); 0-d for a single vector b.
        lower, upper: Of the same shape.
        certain: Whether the lower and the upper one are bounds (k, 2), or estimates.
        gauss: The Gauss rule's value (k,).
        tolerances: max(rtol |value|, atol) (k,).
        statuses: How each column ended. ESTIMATED stands only where (upper − lower) / 2 is within the
            tolerance.
        nodes: Of the Gauss rules (k, m), padded with NaN.
        weights: Of the Gauss rules (k, m), with sum ‖b‖², padded with zeros.
        num_iter: Steps made.
        num_matvecs: Products made, one for each column.
        f: Name of the function.
    """

    values: Tensor
    lower: Tensor
    upper: Tensor
    certain: Tensor
    gauss: Tensor
    tolerances: Tensor
    statuses: tuple[Status, ...]
    nodes: Tensor
    weights: Tensor
    num_iter: int
    num_matvecs: int
    f: str

    def __str__(self) -> str:
        lines = [f"bᵀ {self.f}(A) b: {self.status}", "              value          lower          upper"]
        rows = zip(
            *(x.reshape(-1).tolist() for x in (self.values, self.lower, self.upper)),
            self.certain.reshape(-1, 2).tolist(),
            strict=True,
        )
        for value, low, high, (below, above) in rows:
            marks = "" if below and above else "  (estimated)" if not (below or above) else "  (one certain)"
            lines.append(f"{value:19.10g} {low:14.7g} {high:14.7g}{marks}")
        return "\n".join([*lines, f"{self.num_matvecs} products"])

    __repr__ = __str__


def _largest(errors: Tensor) -> float:
    return float(errors.nan_to_num(float("inf")).max())
