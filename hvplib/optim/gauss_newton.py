"""Gauss-Newton: steps to the minimum of the linearised residual, cut short where that goes too far."""

from __future__ import annotations

import math

from hvplib.optim.ending import Ended
from hvplib.optim.evaluation import Point
from hvplib.optim.fit_methods import GaussNewton
from hvplib.optim.linear_model import DenseModels, KrylovModels, ModelStep
from hvplib.optim.methods import Method
from hvplib.optim.squares import Fit

__all__ = ["GaussNewtonSteps"]


class GaussNewtonSteps:
    """x ← x + t s with s the shortest of argmin ‖r + J s‖, t = 1 or less: f(x) − f(x + t s) ≥ 10⁻⁴ t ‖J s‖².

    Backtracking by quadratic interpolation, t falling to between a tenth and a half each time.

    Args:
        fit: What is minimised.
        models: Makes the model at a point.
        settings: Kept.

    Source: Å. Björck 1996, Numerical methods for least squares problems, 10.1137/1.9781611971484, section
    9.2; of the line search, L. Armijo 1966, 10.2140/pjm.1966.16.1.
    """

    sufficient = 1e-4

    def __init__(self, fit: Fit, models: DenseModels | KrylovModels, settings: GaussNewton) -> None:
        self._fit = fit
        self._models = models
        self.settings: Method = settings

    def advance(self, point: Point) -> Point:
        """A lower point on the line.

        Raises:
            Ended: There is none, as far as the precision tells.
        """
        model = self._models.at(point)
        step = model.shortest()
        size = model.length(point.x)
        refuted = 0.0
        t = 1.0
        while t * step.norm > max(self._fit.eps * size, 1e-300):
            trial = self._fit.at(point.x + t * step.s[:, 0])
            actual = self._fit.decrease(point, trial, t * step.s)
            # sᵀ∇f = −‖J s‖² = −2 predicted
            if actual >= 2 * self.sufficient * t * step.predicted > 0:
                return trial
            if t * step.norm <= self._fit.eps**0.5 * size:
                refuted = max(refuted, 2 * t * step.predicted)
            t *= _shortened(t, step, actual)
        raise Ended(self._fit.stalled(point, refuted))

    def restart(self, length: float) -> None:
        """Nothing is learnt from step to step."""


def _shortened(t: float, step: ModelStep, actual: float) -> float:
    """The share of t at which the parabola through f, its slope and its value at t is least."""
    if not math.isfinite(actual):
        return 0.1
    slope = 2 * t * step.predicted
    return min(max(slope / (2 * (slope - actual)), 0.1), 0.5) if slope > actual else 0.5
