"""How well the model is to be minimised at each step: forcing terms."""

from __future__ import annotations

from hvplib.optim.evaluation import Point

__all__ = ["Forcing"]

# The least that is asked for: more would be spent on digits that the next point has no use for.
_LEAST = 1e-3


class Forcing:
    """η_k in ‖∇f + ∇²f s‖ ≤ η_k ‖∇f‖: tight where the gradient falls fast, and Newton's method with it.

    η_k = γ (‖∇f(x_k)‖ / ‖∇f(x_k−1)‖)², between 0.001 and `largest`, which is that of the first step. With a
    largest of 0.1 their safeguard, which is for γ η² > 0.1, has nothing to do.

    Args:
        largest: Of any step.

    Source: S. C. Eisenstat, H. F. Walker 1996, 10.1137/0917003, choice 2 with γ = 0.9.
    """

    gamma = 0.9

    def __init__(self, largest: float = 0.1) -> None:
        self._largest = largest
        self._before = 0.0

    def tolerance(self, point: Point) -> float:
        """η at this point."""
        norm, before = float(point.gradient.norm()), self._before
        self._before = norm
        if before == 0:
            return self._largest
        return min(max(self.gamma * (norm / before) ** 2, _LEAST), self._largest)
