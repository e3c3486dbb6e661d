"""Looking far ahead along the way that was come, for functions that fall without end."""

from __future__ import annotations

from torch import Tensor

from hvplib.optim.decrease import unbounded
from hvplib.optim.evaluation import Objective, Point

__all__ = ["Outlook"]

# A look is taken after every so many steps: one point more in twenty, where nothing is seen.
_EVERY = 20
# How much farther each next look goes, and the share of the fall until here that it must find to go on.
_FARTHER = 10.0
_SHARE = 0.5


class Outlook:
    """f along x + t d, where d is the way of the last twenty steps, and t = 10, 100, ...

    Steps are short where curvature changes from place to place, however far f falls as a whole: at the rate
    of the steps, no end would be seen. As long as f(x + t d) is lower by t/2 of what those steps gained, the
    next t is tried. Where the gradient became smaller by half, a minimum may be near, and nothing is tried.

    Args:
        start: The first point.
    """

    def __init__(self, start: Point) -> None:
        self._steps = 0
        self._mark(start)

    def ahead(self, objective: Objective, point: Point) -> Point | None:
        """The farthest point with such a fall, from a point that was just reached; None if there is none."""
        self._steps += 1
        if self._steps % _EVERY:
            return None
        way, gained = (point.x - self._x).unsqueeze(1), self._value - point.value
        settling = point.gradient_norm <= self._gradient_norm / 2
        self._mark(point)
        return None if settling or not gained > 0 else _farthest(objective, point, way, gained)

    def _mark(self, point: Point) -> None:
        # Not the point itself: it holds on to its graph.
        self._x, self._value, self._gradient_norm = point.x, point.value, point.gradient_norm


def _farthest(objective: Objective, point: Point, way: Tensor, gained: float) -> Point | None:
    found, t = None, _FARTHER
    while True:
        trial = objective.moved(point, t * way)
        if not trial.finite or point.value - trial.value < _SHARE * t * gained:
            return found
        found, t = trial, _FARTHER * t
        if unbounded(objective.start, trial):
            return trial
