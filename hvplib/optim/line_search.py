"""Along a line: how far to go for the function to fall enough, by backing off, bracketing and going on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from hvplib.optim.decrease import decrease
from hvplib.optim.evaluation import Objective, Point

__all__ = ["Line", "Trial", "search"]

# c₁: share of the promised decrease that suffices.
_SUFFICIENT = 1e-4
# A trial keeps this share of a bracket away from both of its ends.
_INSIDE = 0.1
# By what factor a search goes beyond the last trial, at least and at most.
_BEYOND = (2.0, 10.0)
# Where f is not finite there is nothing to interpolate: this share of the way remains.
_BACK_OFF = 0.25
# Trials, and those of them that may follow after the first point that is lower.
_TRIALS, _REFINEMENTS = 60, 10


@dataclass(frozen=True)
class Trial:
    """A point on a line.

    Attributes:
        t: Where.
        point: x + t d.
        decrease: φ(0) − φ(t); −∞ where f or its gradient is not finite.
        slope: φ'(t); NaN there.
    """

    t: float
    point: Point
    decrease: float
    slope: float


class Line:
    """φ(t) = f(x + t d), which promises a decrease of −t φ'(0) − ½ t² θ.

    Each trial is an evaluation of f with its gradient, so that the slope costs nothing more.

    Args:
        objective: Makes the points.
        point: x.
        direction: d (n, 1).
        curvature: θ = dᵀ∇²f(x) d where that is negative; zero otherwise, where it promises nothing.

    Attributes:
        start: The trial t = 0.
    """

    def __init__(self, objective: Objective, point: Point, direction: Tensor, curvature: float = 0.0) -> None:
        self._objective = objective
        self._direction = direction
        self._curvature = curvature
        self.start = Trial(0.0, point, 0.0, self._slope(point))
        share = (direction[:, 0].abs() / point.x.abs()).nan_to_num(nan=0.0, posinf=math.inf).max()
        self._shortest = float(point.eps / share)

    def at(self, t: float) -> Trial:
        """The trial t: one evaluation.

        Raises:
            Ended: f is −∞ there, or no more points may be evaluated.
        """
        before, step = self.start.point, t * self._direction
        point = self._objective.at(before.x + step[:, 0])
        fall = decrease(before, point, step)
        return Trial(t, point, fall, self._slope(point) if point.finite else math.nan)

    def promised(self, t: float) -> float:
        """How much f falls to t, as far as slope and negative curvature at x tell."""
        return -t * (self.start.slope + t * self._curvature / 2)

    def steep(self, t: float) -> float:
        """φ'(0) + t θ: the slope at t, as far as slope and negative curvature at x tell."""
        return self.start.slope + t * self._curvature

    def apart(self, width: float) -> bool:
        """Whether rounding tells points apart that are so far from each other on this line."""
        return abs(width) > self._shortest

    def _slope(self, point: Point) -> float:
        return float((point.gradient * self._direction).sum())


def search(line: Line, first: float, *, wolfe: float | None = None) -> Trial | None:
    """t with φ(0) − φ(t) ≥ c₁ (−t φ'(0) − ½ t² θ), c₁ = 1e-4, and if asked for |φ'(t)| ≤ c₂ |φ'(0) + t θ|.

    The first condition is that of Armijo where θ = 0. With the second, for 0 < c₂ < 1, the strong conditions
    of Wolfe hold, or those that Moré and Sorensen give for negative curvature. A bracket [low, high] shrinks
    by the minimum of the cubic through values and slopes at both of its ends, which is kept away from them;
    as long as there is no upper end, the search goes on by factors of 2 to 10.

    Where rounding hides the decrease in the values of f, the slopes tell of it (`decrease`). A trial where f
    is not finite is an upper end, from which nothing is interpolated.

    Args:
        line: φ.
        first: The first t.
        wolfe: c₂; None for the first condition alone.

    Returns:
        The trial; one of which only the first condition is known if 10 more did not bring the second; None if
        no t gives a sufficient decrease, down to where rounding lets no point be told from x.

    Sources: J. J. Moré, D. J. Thuente 1994, 10.1145/192115.192132; J. Nocedal, S. J. Wright 2006,
    10.1007/978-0-387-40065-5, algorithms 3.5 and 3.6; of the condition with θ, J. J. Moré, D. C. Sorensen
    1979, 10.1007/BF01582091.
    """
    low, high, t, more = line.start, None, first, _REFINEMENTS
    for _ in range(_TRIALS):
        if more == 0 or not line.apart(t - low.t):
            break
        trial = line.at(t)
        if not _sufficient(line, trial, low):
            high = trial
        elif wolfe is None or abs(trial.slope) <= -wolfe * line.steep(t):
            return trial
        else:
            # The minimum lies where φ falls from here.
            if trial.slope * (1.0 if high is None else high.t - low.t) >= 0:
                high = low
            low = trial
        more -= low is not line.start
        t = _beyond(line.start, low) if high is None else _between(low, high)
    return None if low is line.start else low


def _sufficient(line: Line, trial: Trial, low: Trial) -> bool:
    """Whether the trial is the best so far, and by enough."""
    return trial.decrease >= _SUFFICIENT * line.promised(trial.t) and trial.decrease > low.decrease


def _between(low: Trial, high: Trial) -> float:
    width = high.t - low.t
    if not math.isfinite(high.decrease):
        return low.t + _BACK_OFF * width
    share = (_cubic(low, high) - low.t) / width
    if not math.isfinite(share):
        share = 0.5
    # Before anything lower is known, the bracket has to be halved at least.
    most = 0.5 if low.t == 0 else 1 - _INSIDE
    return low.t + min(max(share, _INSIDE), most) * width


def _beyond(start: Trial, low: Trial) -> float:
    least, most = (low.t * factor for factor in _BEYOND)
    t = _cubic(start, low)
    return min(max(t, least), most) if t > low.t else most


def _cubic(a: Trial, b: Trial) -> float:
    """Where the cubic through values and slopes at both trials is least; NaN where it has no minimum."""
    width = b.t - a.t
    p = a.slope + b.slope + 3 * (b.decrease - a.decrease) / width
    square = p * p - a.slope * b.slope
    if not square >= 0:
        return math.nan
    q = math.copysign(math.sqrt(square), width)
    denominator = b.slope - a.slope + 2 * q
    return b.t - width * (b.slope + q - p) / denominator if denominator != 0 else math.nan
