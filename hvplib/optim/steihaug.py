"""The model in a ball by conjugate gradients, cut where they leave it: Steihaug's and Toint's method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from hvplib.krylov.cg import cg
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Point
from hvplib.optim.recycling import NONE, Recycling
from hvplib.results.status import Status

__all__ = ["Steihaug", "SteihaugStep"]


_BROKEN = {
    Status.NON_FINITE: Ending.NON_FINITE,
    Status.INDEFINITE_PRECONDITIONER: Ending.INDEFINITE_PRECONDITIONER,
}


@dataclass(frozen=True)
class SteihaugStep:
    """Where conjugate gradients ended.

    Attributes:
        s: The step (n, 1).
        predicted: How much the model falls.
        norm: ‖s‖_M.
        on_boundary: Whether the step was cut at the boundary.
    """

    s: Tensor
    predicted: float
    norm: float
    on_boundary: bool


class Steihaug:
    """s ≈ argmin ∇fᵀs + ½ sᵀ∇²f s in ‖s‖_M ≤ Δ, on the path of conjugate gradients; M = P⁻¹.

    Memory of five vectors, whatever the number of products, and of what is recycled. Each radius costs a run
    of its own.

    Args:
        point: Of the model.
        rtol: ‖∇f + ∇²f s‖ ≤ rtol ‖∇f‖ ends the iteration inside.
        max_iter: Most products for one radius.
        precondition: P.
        recycling: What earlier points have left, and this one leaves.

    Source: T. Steihaug 1983, 10.1137/0720042.
    """

    def __init__(
        self,
        point: Point,
        rtol: float,
        *,
        max_iter: int,
        precondition: Callable[[Tensor], Tensor] | None,
        recycling: Recycling = NONE,
    ) -> None:
        self._point, self._rtol, self._max_iter = point, rtol, max_iter
        self._recycling = recycling
        # One for all radii, which are measured by it.
        self._precondition = recycling.preconditioner(precondition, point.gradient)

    def leave(self) -> None:
        """What is recycled was watched on the way."""

    def ball(self, radius: float) -> SteihaugStep:
        """The step for a radius.

        Raises:
            Ended: A product was not finite, or the preconditioner indefinite, before any step was made.
        """
        outcome = cg(
            self._recycling.watched(self._point.hvp),
            -self._point.gradient,
            precondition=self._precondition,
            rtol=self._rtol,
            max_iter=self._max_iter,
            radius=radius,
        )
        assert outcome.decrease is not None and outcome.lengths is not None
        if outcome.statuses[0] in _BROKEN and not float(outcome.decrease) > 0:
            raise Ended(_BROKEN[outcome.statuses[0]])
        boundary = outcome.statuses[0] is Status.BOUNDARY
        return SteihaugStep(outcome.x, float(outcome.decrease), float(outcome.lengths), boundary)
