"""From the settings of a method to what makes its steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from hvplib.optim.evaluation import Objective
from hvplib.optim.forcing import Forcing
from hvplib.optim.methods import Method, TrustNCG
from hvplib.optim.run import Advance
from hvplib.optim.steihaug import Steihaug
from hvplib.optim.trust_region import TrustRegion

__all__ = ["Block", "built"]

Block = Callable[[Tensor], Tensor]


def built(settings: Method, objective: Objective, precondition: Block | None) -> Advance:
    """What makes the steps of this method."""
    n = objective.space.size
    assert isinstance(settings, TrustNCG)
    subproblem = partial(Steihaug, max_iter=settings.max_cg_iter or n, precondition=precondition)
    return TrustRegion(
        objective,
        subproblem,
        radius=settings.initial_radius,
        max_radius=settings.max_radius,
        forcing=Forcing(),
    )
