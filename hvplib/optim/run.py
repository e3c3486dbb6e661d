"""The loop that all methods share: step, look, and at a stationary point ask for its curvature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from hvplib.interrupt import Interrupt
from hvplib.optim.certificate import Curvature
from hvplib.optim.decrease import noise, unbounded
from hvplib.optim.doubts import cause
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.escape import curvature_persists, fall, probe
from hvplib.optim.evaluation import Objective, Point
from hvplib.optim.methods import Method
from hvplib.optim.outlook import Outlook

__all__ = ["Advance", "History", "Iterate", "Run", "Tolerances"]

# Steps within the rounding of f, none of which halves the gradient, after which there is nothing to hope for.
_PATIENCE = 5
# Steps granted to the method at a point where curvature is negative, but too little for f to show it.
_POLISH = 3


class Advance(Protocol):
    """A method: from one point to a lower one.

    Attributes:
        settings: Its numbers.
    """

    settings: Method

    def advance(self, point: Point) -> Point:
        """A lower point.

        Raises:
            Ended: There is none, or a limit was reached.
        """
        ...

    def restart(self, length: float) -> None:
        """A step of this length was made by other means: what was learnt at the last point is of no use."""
        ...


@dataclass(frozen=True)
class Tolerances:
    """When a point is taken for stationary, and when a step for too small.

    Attributes:
        gtol: max |∇f_i| ≤ gtol is stationary.
        ftol: f(x_k) − f(x_k+1) ≤ ftol max(1, |f|) ends the iteration; 0 never does.
    """

    gtol: float
    ftol: float

    def stationary(self, point: Point) -> bool:
        """Whether the gradient is within the tolerance."""
        return point.gradient_norm <= self.gtol

    def small(self, before: Point, after: Point) -> bool:
        """Whether f hardly fell."""
        return before.value - after.value <= self.ftol * max(1.0, abs(after.value)) and self.ftol > 0


@dataclass(frozen=True)
class Iterate:
    """One row of a minimisation's history.

    Attributes:
        nit: Steps made.
        fun: f(x).
        gradient_norm: max |∇f(x)_i|.
        step_norm: ‖x − x_before‖; 0 at the start.
        nfev: Points evaluated so far.
        nhev: Products made so far.
    """

    nit: int
    fun: float
    gradient_norm: float
    step_norm: float
    nfev: int
    nhev: int


class History(list[Iterate]):
    """The rows of a minimisation, in a line where they are printed."""

    def __repr__(self) -> str:
        return f"<{len(self)} rows, f from {self[0].fun:.6g} to {self[-1].fun:.6g}>" if self else "<0 rows>"


@dataclass
class Run:
    """A minimisation on its way.

    Args:
        objective: What is minimised.
        method: Makes the steps.
        tolerances: When to stop.
        max_iter: Most steps.
        curvature_at: The second-order check.
        callback: Told after each step; a true answer ends the run.
        interrupt: Whether Ctrl-C insisted.

    Attributes:
        point: The best point so far.
        curvature: What the last second-order check found, if it was made at `point`.
        certificate: "minimum", "saddle" or "undecided", of `point`.
        history: A row for the start and for each step.
    """

    objective: Objective
    method: Advance
    tolerances: Tolerances
    max_iter: int
    curvature_at: Callable[[Point], Curvature]
    callback: Callable[[Point, Iterate], object] | None
    interrupt: Interrupt
    point: Point = field(init=False)
    curvature: Curvature | None = field(init=False, default=None)
    certificate: str = field(init=False, default="undecided")
    history: History = field(init=False, default_factory=History)
    _quiet: int = field(init=False, default=0)
    _quietest: Point = field(init=False)
    _outlook: Outlook = field(init=False)

    def __post_init__(self) -> None:
        self.point = self._quietest = self.objective.start
        self._outlook = Outlook(self.point)
        self._record(0.0)

    @property
    def nit(self) -> int:
        """Steps made."""
        return len(self.history) - 1

    def to_end(self) -> Ending:
        """Make steps until one of the ends is reached."""
        if not self.point.finite:
            return Ending.NON_FINITE
        try:
            while True:
                if not self.tolerances.stationary(self.point):
                    self._step()
                elif self._certified():
                    return Ending.CONVERGED
        except Ended as ended:
            if ended.ending is Ending.STAGNATED:
                self._go_to(self._quietest)
                return self._cause()
            return ended.ending
        except KeyboardInterrupt:
            if self.interrupt.insisted:
                raise
            return Ending.INTERRUPTED

    def _cause(self) -> Ending:
        """What made the steps so small, if there is still something to spend on the question."""
        if self.point.gradient_norm == 0:
            return Ending.STAGNATED
        try:
            return cause(self.objective, self.point)
        except Ended:
            return Ending.STAGNATED

    def _step(self) -> None:
        self._may_step()
        self._take(self.method.advance(self.point))
        far = self._outlook.ahead(self.objective, self.point)
        if far is not None:
            self._jump(far, float((far.x - self.point.x).norm()))

    def _may_step(self) -> None:
        if self.nit >= self.max_iter:
            raise Ended(Ending.MAX_ITER)

    def _take(self, point: Point) -> None:
        """Go on from a new point, unless something speaks against it."""
        before = self.point
        self._go_to(point)
        self._record(float((point.x - before.x).norm()))
        if self.callback is not None and self.callback(point, self.history[-1]):
            raise Ended(Ending.STOPPED)
        if unbounded(self.objective.start, point):
            raise Ended(Ending.UNBOUNDED)
        self._listen(before, point)
        if self.tolerances.small(before, point) and not self.tolerances.stationary(point):
            raise Ended(Ending.FTOL)

    def _go_to(self, point: Point) -> None:
        if point is not self.point:
            self.point, self.curvature, self.certificate = point, None, "undecided"

    def _record(self, step_norm: float) -> None:
        accounts = self.objective.num_points, self.objective.num_matvecs
        row = Iterate(len(self.history), self.point.value, self.point.gradient_norm, step_norm, *accounts)
        self.history.append(row)

    def _listen(self, before: Point, point: Point) -> None:
        """Count the steps that rounding may have made."""
        if before.value - point.value > noise(before, point):
            self._quiet, self._quietest = 0, point
            return
        if point.gradient_norm <= self._quietest.gradient_norm / 2:
            self._quiet = 0
        self._quiet += 1
        if point.gradient_norm < self._quietest.gradient_norm:
            self._quietest = point
        if self._quiet > _PATIENCE:
            raise Ended(Ending.STAGNATED)

    def _certified(self) -> bool:
        """Whether the stationary point stands; if not, it has been left."""
        point = self.point
        self.curvature = curvature = self.curvature_at(point)
        if math.isnan(curvature.value):
            raise Ended(Ending.NON_FINITE)
        if curvature.negative and _matters(curvature, point, self.objective):
            self.certificate = "saddle"
            self._leave(point, curvature)
            return False
        if curvature.positive and curvature_persists(self.objective, point, curvature):
            self.certificate = "minimum"
            return True
        lower = probe(self.objective, point, curvature)
        if lower is not None:
            self._jump(*lower)
        return lower is None

    def _leave(self, point: Point, curvature: Curvature) -> None:
        self._may_step()
        lower = fall(self.objective, point, curvature)
        if lower is not None:
            self._jump(*lower)
            return
        # So little curvature, beside what is left of the gradient, that a better point may have none.
        for _ in range(_POLISH):
            try:
                better = self.method.advance(point)
            except Ended as ended:
                raise Ended(Ending.SADDLE) if ended.ending in _NOWHERE else ended from None
            if better.gradient_norm <= point.gradient_norm / 2:
                self._take(better)
                return
            point = better
        raise Ended(Ending.SADDLE)

    def _jump(self, point: Point, length: float) -> None:
        self._may_step()
        self.method.restart(length)
        self._take(point)


def _matters(curvature: Curvature, point: Point, objective: Objective) -> bool:
    """Whether negative curvature is more than the share of what is left of the gradient: −θ > 2 ‖∇f‖ / ‖x‖.

    Along a valley of minima that bends, in which a symmetry of f moves x, curvature is about −‖∇f‖ / ‖x‖
    beside the bottom, and zero on it. Over the length ‖x‖ it lowers f by no more than the gradient does.
    Where the gradient holds variables at their bounds, d may lead uphill at first: then it is to lower f
    within the room that the bounds leave, −θ > 2 |∇fᵀd| / t.
    """
    size = max(1.0, float(point.x.norm()))
    if not -curvature.value * size > 2 * point.gradient_norm * math.sqrt(point.x.numel()):
        return False
    d = curvature.direction
    room = min(size, max(objective.room(point, d), objective.room(point, -d)))
    return -curvature.value * room > 2 * abs(float((point.gradient * d).sum()))


_NOWHERE = (Ending.STAGNATED, Ending.NOT_SMOOTH)
