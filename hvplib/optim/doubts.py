"""Why no step lowers the function: rounding, or a function that is not what its derivatives say."""

from __future__ import annotations

from hvplib.optim.decrease import noise
from hvplib.optim.ending import Ending
from hvplib.optim.evaluation import Point

__all__ = ["Doubts", "stalled"]

# Times the rounding of f: a promise that f could not have hidden.
_VISIBLE = 100.0
# Share of the first step. Short steps of a smooth function do what its derivatives say.
_SHORT = 0.01


class Doubts:
    """What the steps from one point promised, and f did not keep.

    Args:
        point: Where they start.
    """

    def __init__(self, point: Point) -> None:
        self._visible = _VISIBLE * noise(point, point)
        self._first: float | None = None
        self._broken = False

    def add(self, predicted: float, length: float) -> None:
        """A step of this length promised this decrease, and f was not lower there."""
        if self._first is None:
            self._first = length
        self._broken |= predicted > self._visible and length <= _SHORT * self._first

    @property
    def ending(self) -> Ending:
        """What to call it when steps have become too short to move the point."""
        return Ending.NOT_SMOOTH if self._broken else Ending.STAGNATED


def stalled(predicted: float, hidden: float) -> Ending:
    """The same of a single last step: what it promised, beside the rounding of f."""
    return Ending.STAGNATED if predicted <= _VISIBLE * hidden else Ending.NOT_SMOOTH
