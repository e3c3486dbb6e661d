"""A tridiagonal system that grows, solved again with each row by a few numbers."""

from __future__ import annotations

import math

__all__ = ["GrowingSystem"]


class GrowingSystem:
    """T y = −e₁ for a positive definite tridiagonal T, from T = L D Lᵀ: what conjugate gradients follow.

    The columns p of L⁻ᵀ are conjugate, and y is the sum of −z p / d with L z = e₁. Each row adds one to it.

    Attributes:
        definite: Whether T is, as far as it was followed: up to the first pivot that is not positive.
        length: ‖y‖.
        last: |y_m|.

    Source: M. R. Hestenes, E. Stiefel 1952, 10.6028/jres.049.044.

    Example:
        >>> system = GrowingSystem()
        >>> system.grow(2.0, 0.0)
        >>> system.grow(2.0, 1.0)  # of [[2, 1], [1, 2]]
        >>> round(system.last, 6), round(system.length, 6)
        (0.333333, 0.745356)
    """

    def __init__(self) -> None:
        self.definite = True
        self.last = 0.0
        self._pivot, self._z = math.inf, -1.0
        self._pp = 0.0  # ‖p‖²
        self._yp = 0.0  # yᵀp
        self._yy = 0.0  # ‖y‖²

    @property
    def length(self) -> float:
        """‖y‖."""
        return math.sqrt(max(self._yy, 0.0))

    def grow(self, diagonal: float, coupling: float) -> None:
        """Add a row with this entry on the diagonal, and this one beside it.

        Args:
            diagonal: The entry of T on the diagonal.
            coupling: The one left of it; of the first row 0.
        """
        ratio = coupling / self._pivot if self.definite else 0.0
        self._pivot = diagonal - ratio * coupling
        if not (self.definite and self._pivot > 0):
            self.definite = False
            return
        if self._pp:
            self._z *= -ratio
        along = self._z / self._pivot
        self._pp = 1.0 + ratio * ratio * self._pp
        before = -ratio * self._yp  # yᵀp, y before this row
        self._yy += along * (2 * before + along * self._pp)
        self._yp = before + along * self._pp
        self.last = abs(along)
