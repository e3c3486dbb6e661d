"""Directions of an inexact Newton method by conjugate gradients, and the negative curvature they meet."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from hvplib.krylov.cg import cg
from hvplib.optim.descent import Direction, flat
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Point
from hvplib.optim.recycling import NONE, Recycling
from hvplib.results.status import Status

__all__ = ["conjugate_gradients"]

_BROKEN = {
    Status.NON_FINITE: Ending.NON_FINITE,
    Status.INDEFINITE_PRECONDITIONER: Ending.INDEFINITE_PRECONDITIONER,
}


def conjugate_gradients(
    point: Point,
    rtol: float,
    *,
    max_iter: int,
    precondition: Callable[[Tensor], Tensor] | None,
    recycling: Recycling = NONE,
) -> Direction:
    """d with ‖∇f + ∇²f d‖ ≤ rtol ‖∇f‖, or a direction of non-positive curvature met on the way to it.

    Such a direction is taken instead of the iterate where it was met: in the classical problems that takes
    fewer points than the iterate does, or the sum of both. Memory of five vectors, and of what is recycled.

    Args:
        point: x.
        rtol: Relative tolerance.
        max_iter: Most products.
        precondition: R ↦ P R with P ≈ ∇²f⁻¹ positive definite.
        recycling: What earlier points have left, and this one leaves.

    Raises:
        Ended: A product was not finite, or the preconditioner indefinite, before any step was made.

    Sources: R. S. Dembo, T. Steihaug 1983, 10.1007/BF02592055; of taking the direction,
    C. W. Royer, M. O'Neill, S. J. Wright 2020, 10.1007/s10107-019-01362-7.
    """
    helped = recycling.preconditioner(precondition, point.gradient)
    outcome = cg(
        recycling.watched(point.hvp),
        -point.gradient,
        precondition=helped,
        rtol=rtol,
        max_iter=max_iter,
        # The last iterate, where the model is least.
        radius=math.inf,
    )
    fell = outcome.decrease is not None and float(outcome.decrease) > 0
    if outcome.statuses[0] in _BROKEN and not fell:
        raise Ended(_BROKEN[outcome.statuses[0]])
    if outcome.direction is None:
        return Direction(outcome.x)
    assert outcome.curvature is not None
    return flat(point, outcome.direction, float(outcome.curvature))
