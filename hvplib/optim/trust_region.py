"""Trust-region methods: the quadratic model is minimised within a ball whose radius follows its success."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from hvplib.optim.decrease import decrease
from hvplib.optim.doubts import Doubts
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Objective, Point
from hvplib.optim.forcing import Forcing
from hvplib.optim.methods import Method, TrustRegionMethod

__all__ = ["BallStep", "Space", "TrustRegion"]


class BallStep(Protocol):
    """A minimiser of the model in a ball."""

    @property
    def s(self) -> Tensor:
        """The step (n, 1)."""

    @property
    def predicted(self) -> float:
        """How much the model falls, positive."""

    @property
    def norm(self) -> float:
        """‖s‖_M."""

    @property
    def on_boundary(self) -> bool:
        """Whether it lies on the boundary."""


class Space(Protocol):
    """The quadratic model at one point, as far as it is known."""

    def ball(self, radius: float) -> BallStep:
        """The step for a radius."""

    def leave(self) -> None:
        """Told when a step was taken."""


class TrustRegion:
    """x ← x + s with s ≈ argmin ∇fᵀs + ½ sᵀ∇²f s, ‖s‖_M ≤ Δ, if f falls by at least η of what the model says.

    With ρ the ratio of both: Δ ← ½ of the step, or what interpolation gives, where ρ < ¼; Δ ← max(Δ, γ ‖s‖)
    where ρ > ¾ and the step reached the boundary.

    Args:
        objective: What is minimised.
        settings: The radii.
        subproblem: From a point and the relative tolerance on the model's gradient to the model.

    Attributes:
        radius: Δ.

    Source: A. R. Conn, N. I. M. Gould, P. L. Toint 2000, Trust-region methods, 10.1137/1.9780898719857,
    algorithm 6.1.1; the interpolation is that of section 17.1.
    """

    accepted = 1e-4
    grown = 3.0

    def __init__(
        self,
        objective: Objective,
        settings: TrustRegionMethod,
        subproblem: Callable[[Point, float], Space],
    ) -> None:
        self.settings: Method = settings
        self.radius = settings.initial_radius
        self._max_radius = settings.max_radius
        self._objective = objective
        self._subproblem = subproblem
        self._forcing = Forcing()

    def advance(self, point: Point) -> Point:
        """A lower point, from steps in one and the same model.

        Raises:
            Ended: There is none, as far as the precision tells.
        """
        if point.gradient_norm == 0:
            raise Ended(Ending.STAGNATED)
        space = self._subproblem(point, self._forcing.tolerance(point))
        doubts = Doubts(point)
        while True:
            step = space.ball(self.radius)
            if not (math.isfinite(step.predicted) and math.isfinite(step.norm)):
                raise Ended(Ending.NON_FINITE)  # numbers beyond the range of the dtype
            trial = self._objective.moved(point, step.s)
            actual = decrease(point, trial, step.s)
            self._resize(point, step, actual)
            if actual >= self.accepted * step.predicted > 0:
                space.leave()
                return trial
            doubts.add(step.predicted, step.norm, actual)
            if self.radius <= point.eps * float(point.x.norm()) or self.radius < 1e-300:
                raise Ended(doubts.ending)

    def restart(self, length: float) -> None:
        """A step of this length was made by other means."""
        self.radius = min(max(self.radius, length), self._max_radius)

    def _resize(self, point: Point, step: BallStep, actual: float) -> None:
        ratio = actual / step.predicted if step.predicted > 0 else -math.inf
        if ratio < 0.25:
            self.radius = step.norm * _shrink(float((point.gradient * step.s).sum()), step, actual)
        elif ratio > 0.75 and step.on_boundary:
            self.radius = min(max(self.radius, self.grown * step.norm), self._max_radius)


def _shrink(slope: float, step: BallStep, actual: float) -> float:
    """The factor at which ρ would be ¾ were f, along the step, the cubic through what is known of it."""
    if not math.isfinite(actual):
        return 0.25
    # f(x + t s) ≈ f + t slope + t² curvature / 2 + t³ third: third = predicted − actual.
    third = step.predicted - actual
    if not third > 0:
        return 0.5
    curvature = -2 * (step.predicted + slope)
    # predicted(t) − actual(t) = third t³ = ¼ predicted(t), predicted(t) = −t slope − t² curvature / 2.
    a, b, c = third, curvature / 8, slope / 4
    t = (-b + math.sqrt(max(b * b - 4 * a * c, 0.0))) / (2 * a)
    return min(max(t, 0.0625), 0.5)
