"""By how much a step lowers the function, also where rounding hides it in the values."""

from __future__ import annotations

import math

from torch import Tensor

from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Point

__all__ = ["decrease", "noise", "unbounded"]

# Roundings in a value of f: of a sum over many terms.
_ROUNDINGS = 10.0
# What a function that has a minimum does not fall to from a start of order one.
_DEPTH = 1e20


def noise(point: Point, trial: Point) -> float:
    """What rounding leaves unknown of the difference of two values."""
    return _ROUNDINGS * point.eps * max(abs(point.value), abs(trial.value))


def decrease(point: Point, trial: Point, step: Tensor) -> float:
    """f(x) − f(x + s): −∞ where the trial point is not finite.

    Where the difference is lost in the rounding of the values, from the gradients: −½ (∇f(x) + ∇f(x + s))ᵀ s,
    the trapezoidal rule, whose error is of third order in s and relative to the decrease.

    Args:
        point: x.
        trial: x + s.
        step: s (n, 1).

    Raises:
        Ended: f is −∞ at the trial point, or so low that it has no minimum.

    Source: W. W. Hager, H. Zhang 2005, 10.1137/030601880, section 4 (approximate Wolfe conditions).
    """
    if not trial.finite:
        if trial.value == -math.inf:
            raise Ended(Ending.UNBOUNDED)
        return -math.inf
    difference = point.value - trial.value
    if abs(difference) > noise(point, trial):
        return difference
    return -float(((point.gradient + trial.gradient) * step).sum()) / 2


def unbounded(start: Point, point: Point) -> bool:
    """Whether f has fallen so far that it must be taken to have no minimum: by 1e20 max(1, |f(x_0)|)."""
    return start.value - point.value > _DEPTH * max(1.0, abs(start.value))
