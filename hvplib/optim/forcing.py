"""How well the model is to be minimised at each step: forcing terms."""

from __future__ import annotations

from hvplib.optim.evaluation import Point

__all__ = ["Forcing"]


class Forcing:
    """η_k in ‖∇f + ∇²f s‖ ≤ η_k ‖∇f‖: loose far from the solution, tight where Newton's method is fast.

    η_k = γ (‖∇f(x_k)‖ / ‖∇f(x_k−1)‖)², but at least γ η_{k−1}² where that is above 0.1, and at most
    `largest`; and no tighter than what the tolerance on the gradient asks for.

    Args:
        gtol: max |∇f_i| that ends the minimisation.
        largest: Of the first step, and of any.

    Source: S. C. Eisenstat, H. F. Walker 1996, 10.1137/0917003, choice 2 with its safeguards.
    """

    gamma = 0.9

    def __init__(self, largest: float = 0.5) -> None:
        self._largest = largest
        self._eta = largest
        self._before: float | None = None

    def tolerance(self, point: Point, target: float = 0.0) -> float:
        """η at this point; `target` is the gradient norm that is wanted in the end."""
        norm = float(point.stationarity.norm())
        if self._before is not None and self._before > 0:
            safe = self.gamma * self._eta**2
            eta = self.gamma * (norm / self._before) ** 2
            if safe > 0.1:
                eta = max(eta, safe)
            self._eta = min(eta, self._largest)
        self._before = norm
        return max(self._eta, 0.5 * target / norm) if norm > 0 else self._eta
