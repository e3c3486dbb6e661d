"""Why no step lowers the function: rounding, or a function that is not what its derivatives say."""

from __future__ import annotations

import math

from hvplib.optim.decrease import decrease, noise
from hvplib.optim.ending import Ending
from hvplib.optim.evaluation import Objective, Point

__all__ = ["Doubts", "cause", "stalled"]

# Times the rounding of f: a promise that f could not have hidden.
_VISIBLE = 100.0
# Share of the first step. Short steps of a smooth function do what its derivatives say.
_SHORT = 0.01
# Share of its promise that such a step brings at least.
_KEPT = 0.1


class Doubts:
    """What the steps from one point promised, and f did not keep.

    Args:
        point: Where they start.
    """

    def __init__(self, point: Point) -> None:
        self._visible = _VISIBLE * _hidden(point)
        self._first: float | None = None
        self._broken = False

    def add(self, predicted: float, length: float, actual: float) -> None:
        """A step of this length promised this decrease, and did not bring it; `actual` −∞ if not finite."""
        if self._first is None:
            self._first = length
        unexplained = predicted > self._visible or actual == -math.inf
        self._broken |= unexplained and length <= _SHORT * self._first

    @property
    def ending(self) -> Ending:
        """What to call it when steps have become too short to move the point."""
        return Ending.NOT_SMOOTH if self._broken else Ending.STAGNATED


def stalled(predicted: float, point: Point) -> Ending:
    """The same of a single last step: what it promised, beside what rounding hides."""
    return Ending.STAGNATED if predicted <= _VISIBLE * _hidden(point) else Ending.NOT_SMOOTH


def cause(objective: Objective, point: Point) -> Ending:
    """Why steps from here have become too small to count: a point and a product more.

    One step is tried along the projected gradient, short enough for a smooth function to keep what it
    promises, and long enough for rounding not to hide it. Where there is no such length, rounding it is.
    """
    g = point.stationarity
    square = float((g * g).sum())
    s = objective.step(point, -g)
    curvature = float((s * point.hvp(s)).sum()) / square
    longest = 0.5 * square / curvature if curvature > 0 else math.inf
    t = min(2 * _VISIBLE * _hidden(point) / square, longest)
    s = objective.step(point, -t * g)
    promised = -float((point.gradient * s).sum()) - t**2 * curvature * square / 2
    if not promised > _VISIBLE * _hidden(point):
        return Ending.STAGNATED
    actual = decrease(point, objective.moved(point, s), s)
    return Ending.STAGNATED if actual >= _KEPT * promised else Ending.NOT_SMOOTH


def _hidden(point: Point) -> float:
    """What rounding leaves unknown of f: that of f itself, and that of x, which is worth eps Σ |∇f_i x_i|.

    Where f is almost zero at its minimum and steep around it, the latter is all that keeps f from falling.
    """
    moved = float((point.gradient[:, 0] * point.x).abs().sum())
    return noise(point, point) + point.eps * moved
