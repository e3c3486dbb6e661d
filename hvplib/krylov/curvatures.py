"""What Rayleigh quotients prove of a matrix that should be positive definite."""

from __future__ import annotations

import math

__all__ = ["Curvatures"]


class Curvatures:
    """The quotients pᵀA p / pᵀp met so far, which all lie in [λ_min, λ_max].

    One that is below 2 eps times another proves that the condition number is above 1 / (2 eps): A is singular
    as far as anyone can tell.

    Args:
        eps: Unit of rounding of the vectors.
    """

    def __init__(self, eps: float) -> None:
        self._eps = eps
        self._norm = 0.0
        self._least = math.inf

    @property
    def zero(self) -> float:
        """eps ‖A‖, with twice the lower bound of ‖A‖ that was seen: it is rarely less than half of it."""
        return 2 * self._eps * self._norm

    @property
    def singular(self) -> bool:
        """Whether a quotient was zero, as it turns out: a later one shows how small it was."""
        return self._least <= self.zero

    def meet(self, quotient: float, norm: float = 0.0) -> bool:
        """Whether this quotient, met with a lower bound of ‖A‖, is not positive beyond rounding."""
        self._norm = max(self._norm, abs(quotient), norm)
        self._least = min(self._least, quotient)
        return quotient <= self.zero
