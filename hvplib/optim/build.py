"""From the settings of a method to what makes its steps."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hvplib.optim.descent import Descent
from hvplib.optim.directions import directions
from hvplib.optim.evaluation import Objective, Point
from hvplib.optim.exact import Exact, check_storable
from hvplib.optim.methods import LineSearchMethod, Method, TrustExact, TrustNCG, TrustRegionMethod
from hvplib.optim.preconditioning import Preconditioning
from hvplib.optim.run import Advance
from hvplib.optim.steihaug import Steihaug
from hvplib.optim.trust_region import Space, TrustRegion

__all__ = ["built"]

Random = Callable[[int], Tensor]


def built(settings: Method, objective: Objective, precondition: Preconditioning, random: Random) -> Advance:
    """What makes the steps of this method."""
    if isinstance(settings, TrustExact):
        check_storable(objective.space.size)
    if isinstance(settings, TrustRegionMethod):
        return TrustRegion(objective, settings, _subproblem(settings, precondition, random))
    if isinstance(settings, LineSearchMethod):
        return Descent(objective, settings, directions(settings, objective, precondition))
    raise TypeError(f"no way is known to run {settings!r}")


def _subproblem(
    settings: TrustRegionMethod, precondition: Preconditioning, random: Random
) -> Callable[[Point, float], Space]:
    if isinstance(settings, TrustExact):
        return lambda point, rtol: Exact(point)
    assert isinstance(settings, TrustNCG)

    def steihaug(point: Point, rtol: float) -> Space:
        max_iter = settings.max_cg_iter or point.x.shape[0]
        return Steihaug(point, rtol, max_iter=max_iter, precondition=precondition(point))

    return steihaug
