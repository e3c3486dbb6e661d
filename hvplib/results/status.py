"""How an iteration ended, in words that say what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor

__all__ = ["ConvergenceError", "Progress", "Status"]


class Status(Enum):
    """How an iteration ended. The value is the message, with the remedy where there is one."""

    CONVERGED = "converged: the recomputed residual is within the tolerance"
    BOUNDARY = "the step reached the boundary of the trust region; the solution lies on it"
    NEGATIVE_CURVATURE = (
        "A is not positive definite: a direction p with pᵀA p ≤ 0 was met; use method='minres-qlp' for a "
        "symmetric indefinite system, or a damping above -λ_min for a positive definite one"
    )
    INCONSISTENT = (
        "A is singular and b has a part outside its range, so no x solves A x = b; x minimises the residual; "
        "use a damping above zero if a regularised solution is wanted"
    )
    MAX_ITER = (
        "the iteration limit came before the tolerance; raise max_iter (max_matvecs of Lanczos) or use "
        "a preconditioner"
    )
    STAGNATED = (
        "rounding stops the residual above the tolerance; ask for no more than the products' precision "
        "gives, use float64, damping or a preconditioner"
    )
    NON_FINITE = (
        "a product, the preconditioner or the input gave NaN or infinity; check the operator at this point"
    )
    INDEFINITE_PRECONDITIONER = (
        "the preconditioner is not symmetric positive definite: a vector r with rᵀP r ≤ 0 was met; use one "
        "that is"
    )
    NOT_SYMMETRIC = (
        "A is not symmetric: the products contradict symmetry; check it with check_operator, and fix the "
        "noise of its products if it has any"
    )
    TIME_LIMIT = "the time limit was reached before the tolerance; the result is the best so far"
    INTERRUPTED = "interrupted before the tolerance was reached; the result is the best so far"
    STOPPED = "the callback asked to stop before the tolerance was reached; the result is the best so far"
    ESTIMATED = "estimated: the error is stated, and within the tolerance if one was given"
    EXACT = "exact up to rounding: chance has no part in it"
    MAX_MATVECS = (
        "the products allowed were spent before the error came within the tolerance; raise max_matvecs, or "
        "ask for a larger rtol or atol"
    )
    INDEFINITE = (
        "A is not positive semidefinite: a vector x with xᵀA x < 0 was met; use a method that takes any "
        "symmetric A, or damp it first with A.shifted(...)"
    )

    @property
    def success(self) -> bool:
        """Whether what was asked for was reached."""
        return self in (Status.CONVERGED, Status.BOUNDARY, Status.ESTIMATED, Status.EXACT)

    @property
    def asked_for(self) -> bool:
        """Whether the caller had it end early: that is no failure, and raises nothing."""
        return self in (Status.INTERRUPTED, Status.TIME_LIMIT, Status.STOPPED)

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Progress:
    """What a callback is told after each step; returning True asks the iteration to stop.

    Attributes:
        num_iter: Steps made.
        num_matvecs: Products made, one per column.
        residual_norms: Estimates (k,) of the residual norms, on the CPU.
        values: Ritz values (k,) on the CPU, for an eigenproblem; None for a linear system.
    """

    num_iter: int
    num_matvecs: int
    residual_norms: Tensor
    values: Tensor | None = None


class ConvergenceError(RuntimeError):
    """An iteration ended without what was asked for; `.result` carries what it found.

    Attributes:
        result: The result as `throw=False` returns it.
        status: Its status.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result
        self.status: Status = result.status
