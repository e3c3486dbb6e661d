"""The Hessian times a vector from gradients alone: approximate, and only ever used by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hvplib.ad.differences import Difference, difference, ladder
from hvplib.ad.objective import Objective
from hvplib.ad.strategies import Outcome, gradient
from hvplib.ad.vectors import all_finite
from hvplib.errors import DerivativeError

__all__ = ["best_difference", "finite_difference"]


def finite_difference(objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> Outcome:
    """H v ≈ (8 (g(x+hv) − g(x−hv)) − (g(x+2hv) − g(x−2hv))) / 12h, with the step of least estimated error."""
    if objective.functional:
        raise DerivativeError(
            'strategy="finite-difference" chooses its step from values and cannot run inside a torch.func '
            "transform; call it outside, or choose an exact strategy"
        )
    points = [x.detach() for x in primals]
    directions = [v.detach() for v in tangents]
    value, slope = gradient(lambda xs: objective(xs, "plain"), points)
    return Outcome(value, slope, best_difference(objective, points, directions).product)


def best_difference(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> Difference:
    """The difference of least estimated error over the ladder of steps of the dtype."""
    if all(not bool(v.any()) for v in tangents):
        return Difference([torch.zeros_like(x) for x in primals], 0.0, 0.0, 0.0, 0.0)
    precision = objective.precision(primals)
    best: Difference | None = None
    for step in ladder(primals, tangents, precision):
        current = difference(lambda xs: objective(xs, "plain"), primals, tangents, step, precision)
        if all_finite(current.product) and (best is None or current.error < best.error):
            best = current
    if best is None or not math.isfinite(best.error):
        raise DerivativeError(
            "the gradient of func is not finite near primals, so no difference of gradients exists; "
            "check func at nearby points"
        )
    return best
