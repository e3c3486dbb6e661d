"""From the settings of a method with a line search to what makes its directions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hvplib.optim.capped_cg import capped_conjugate_gradients
from hvplib.optim.descent import Direction
from hvplib.optim.evaluation import Objective, Point
from hvplib.optim.methods import LineSearchMethod, LineSearchNewtonCG, NewtonMR
from hvplib.optim.newton_cg import conjugate_gradients
from hvplib.optim.newton_mr import minimal_residuals
from hvplib.optim.preconditioning import Preconditioning
from hvplib.optim.recycling import Recycling

__all__ = ["directions"]


def directions(
    settings: LineSearchMethod, objective: Objective, precondition: Preconditioning, recycling: Recycling
) -> Callable[[Point, float], Direction]:
    """From a point and a relative tolerance to a direction.

    Raises:
        ValueError: A preconditioner is given for capped conjugate gradients.
    """
    max_iter = settings.max_inner_iter or objective.space.size
    if isinstance(settings, LineSearchNewtonCG) and settings.capped:
        if precondition(objective.start) is not None:
            raise ValueError(
                "preconditioner must be None with LineSearchNewtonCG(capped=True), whose bounds hold for the "
                "plain iteration only; leave it out, or set capped=False"
            )
        return partial(
            capped_conjugate_gradients,
            eps=settings.curvature_tol,
            max_iter=max_iter,
            strict=settings.strict,
        )
    if isinstance(settings, NewtonMR):
        inner = minimal_residuals
    else:
        inner = partial(conjugate_gradients, recycling=recycling)
    return lambda point, rtol: inner(point, rtol, max_iter=max_iter, precondition=precondition(point))
