"""The model in a ball, solved in a Krylov space that is kept for smaller balls."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from hvplib.krylov.quadratic_model import QuadraticSpace
from hvplib.krylov.quadratic_step import QuadraticStep
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Point
from hvplib.optim.preconditioning import Block
from hvplib.optim.recycling import NONE, Recycling
from hvplib.results.status import Status

__all__ = ["KrylovModel"]

_BROKEN = {
    Status.NON_FINITE: Ending.NON_FINITE,
    Status.INDEFINITE_PRECONDITIONER: Ending.INDEFINITE_PRECONDITIONER,
}


class KrylovModel:
    """∇fᵀs + ½ sᵀ∇²f s at a point, on a Krylov space that grows as far as a step needs it.

    Args:
        point: Of the model.
        rtol: ‖∇f + (∇²f + μM) s‖ ≤ rtol ‖∇f‖ ends the growth.
        boundary_rtol: The same for steps to the boundary of the ball, if it is larger.
        krylov_dim: The largest dimension.
        precondition: P = M⁻¹.
        random: k ↦ a block (n, k) of normal numbers, to go on where the space of the gradient ends.
        recycling: What earlier points have left, and this one leaves.
    """

    def __init__(
        self,
        point: Point,
        rtol: float,
        *,
        boundary_rtol: float,
        krylov_dim: int,
        precondition: Block | None,
        random: Callable[[int], Tensor],
        recycling: Recycling = NONE,
    ) -> None:
        self._rtol, self._boundary_rtol = rtol, max(rtol, boundary_rtol)
        helped = recycling.preconditioner(precondition, point.gradient)
        self._space = QuadraticSpace(
            point.hvp,
            point.gradient,
            krylov_dim=krylov_dim,
            precondition=helped,
            random=random,
        )
        self._recycling = recycling

    def ball(self, radius: float) -> QuadraticStep:
        """The step for ‖s‖_M ≤ Δ.

        Raises:
            Ended: A product was not finite, or the preconditioner indefinite, before any step was made.
        """
        return _sound(self._space.ball(radius, rtol=self._rtol, boundary_rtol=self._boundary_rtol))

    def leave(self) -> None:
        """A step from here was taken: the next model may make use of this one."""
        self._recycling.take(self._space)

    def cubic(self, sigma: float) -> QuadraticStep:
        """The step for the model with (σ/3) ‖s‖_M³; raises as `ball`."""
        return _sound(self._space.cubic(sigma, rtol=self._rtol))


def _sound(step: QuadraticStep) -> QuadraticStep:
    if step.status in _BROKEN and not step.predicted > 0:
        raise Ended(_BROKEN[step.status])
    if not (math.isfinite(step.predicted) and math.isfinite(step.norm)):
        raise Ended(Ending.NON_FINITE)  # numbers beyond the range of the dtype
    return step
