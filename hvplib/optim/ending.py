"""How a minimisation ended, in words that say what to do next."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Ended", "Ending"]


class Ending(IntEnum):
    """How a minimisation ended: a number as SciPy's `status` is one, with its `message`. 0 is success."""

    message: str

    def __new__(cls, code: int, message: str) -> Ending:
        member = int.__new__(cls, code)
        member._value_ = code
        member.message = message
        return member

    CONVERGED = (
        0,
        "converged: the gradient is within gtol, and a search found no direction of negative curvature",
    )
    MAX_ITER = 1, "max_iter steps were made before the end was reached; raise max_iter, or go on from x"
    MAX_HVP = 2, "max_hvp products were spent before the end was reached; raise max_hvp, or go on from x"
    MAX_NFEV = 3, "max_nfev points were evaluated before the end was reached; raise it, or go on from x"
    SADDLE = (
        4,
        "x is stationary but no minimum: curvature is negative along direction, but no point along it has a "
        "lower value; perturb x, and check the function there",
    )
    STAGNATED = (
        5,
        "rounding hides any further decrease, and the gradient is still above gtol; x is as good as this "
        "precision gives: ask for a larger gtol, use float64, or scale the unknowns",
    )
    NOT_SMOOTH = (
        6,
        "no step lowers the function, however short, though its gradient says that one should: it has a kink "
        "or a jump at x, or is not finite beyond it, or its gradient is wrong; smooth it, and check it with "
        "check_hvp",
    )
    UNBOUNDED = (
        7,
        "the function falls without bound; check its sign, or add bounds or a penalty",
    )
    NON_FINITE = (
        8,
        "the function, its gradient or its products are NaN or infinite at x; start elsewhere, and check the "
        "function with torch.autograd.detect_anomaly",
    )
    FTOL = (
        9,
        "a step lowered the function by less than ftol before the gradient came within gtol; lower ftol, or "
        "set it to 0",
    )
    TIME_LIMIT = 10, "the time limit was reached before the end was reached; x is the best so far"
    INTERRUPTED = 11, "interrupted before the end was reached; x is the best so far"
    STOPPED = 12, "the callback asked to stop before the end was reached; x is the best so far"

    INDEFINITE_PRECONDITIONER = (
        13,
        "the preconditioner is not symmetric positive definite: a vector r with rᵀP r ≤ 0 was met; use one "
        "that is",
    )

    @property
    def success(self) -> bool:
        """Whether what was asked for was reached."""
        return self is Ending.CONVERGED


class Ended(Exception):
    """The minimisation ends here, at the point that it had reached; never leaves the library."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.message)
        self.ending = ending
