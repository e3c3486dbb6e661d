"""Methods with a line search: a direction for each point, and how far to go along it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hvplib.optim.doubts import stalled
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Objective, Point
from hvplib.optim.forcing import Forcing
from hvplib.optim.line_search import Line, Trial, search
from hvplib.optim.methods import LineSearchMethod, Method

__all__ = ["Descent", "Direction", "flat", "steepest"]

# c₂ of a search that may go on, as along negative curvature, where nothing says how far.
_EXPANDING = 0.9
_WOLFE = {"armijo": None, "wolfe": _EXPANDING}
# Of the tolerances for the directions: the loosest. A search profits more from better directions than a trust
# region does, whose radius would cut them.
_LOOSEST = 0.2


@dataclass(frozen=True)
class Direction:
    """Where to go from a point.

    Attributes:
        d: (n, 1), not uphill. Of negative curvature: of length one; otherwise a step, which a good model
            makes in full.
        curvature: dᵀ∇²f d where it is not positive; None otherwise.
        damped: Whether it is a step of a damped model, which may be too short.
    """

    d: Tensor
    curvature: float | None = None
    damped: bool = False


class Descent:
    """x ← x + t d, with t from a line search that tries a Newton step in full first.

    Along a direction of negative curvature θ = dᵀ∇²f d, ‖d‖ = 1, the first t is |θ|, or the length of the
    last step if that was longer; from there the search backs off or goes on. If no step along d lowers f,
    which happens where rounding has spoilt d, the steepest descent is tried before giving up.

    Args:
        objective: What is minimised.
        settings: With the kind of line search.
        direction: From a point and the relative tolerance on the Newton equations to a direction.

    Source: of the length |θ|, C. W. Royer, M. O'Neill, S. J. Wright 2020, 10.1007/s10107-019-01362-7.
    """

    def __init__(
        self,
        objective: Objective,
        settings: LineSearchMethod,
        direction: Callable[[Point, float], Direction],
    ) -> None:
        self.settings: Method = settings
        self._wolfe = _WOLFE[settings.line_search]
        self._objective = objective
        self._direction = direction
        self._forcing = Forcing(_LOOSEST)
        self._length = 1.0

    def advance(self, point: Point) -> Point:
        """A lower point.

        Raises:
            Ended: There is none, as far as the precision tells.
        """
        if point.gradient_norm == 0:
            raise Ended(Ending.STAGNATED)
        line, first, trial = self._along(point, self._direction(point, self._forcing.tolerance(point)))
        if trial is None:
            line, first, trial = self._along(point, steepest(point))
        if trial is None:
            raise Ended(stalled(line.promised(first), point))
        self.restart(float((trial.point.x - point.x).norm()))
        return trial.point

    def restart(self, length: float) -> None:
        """A step of this length was made."""
        self._length = length

    def _along(self, point: Point, direction: Direction) -> tuple[Line, float, Trial | None]:
        """The line, the first trial on it, and where its search ended."""
        line = Line(self._objective, point, direction.d, direction.curvature or 0.0)
        if direction.curvature is None:
            wolfe = _EXPANDING if direction.damped else self._wolfe
            return line, 1.0, search(line, 1.0, wolfe=wolfe) if line.start.slope < 0 else None
        first = max(-direction.curvature, self._length)
        return line, first, search(line, first, wolfe=_EXPANDING)


def flat(point: Point, d: Tensor, curvature: float) -> Direction:
    """The direction ± d / ‖d‖ that leads downhill, of non-positive curvature dᵀ∇²f d / dᵀd."""
    slope = torch.linalg.vecdot(point.gradient, d, dim=0)
    return Direction(d * torch.where(slope > 0, -1.0, 1.0) / d.norm(), min(curvature, 0.0))


def steepest(point: Point) -> Direction:
    """−∇f ≠ 0, as far as the model falls along it. Costs a product."""
    g = point.gradient
    length = float(g.norm())
    unit = g / length
    curvature = float((unit * point.hvp(unit)).sum())
    if curvature > 0:
        return Direction(-(length / curvature) * unit)
    return flat(point, -g, curvature)
