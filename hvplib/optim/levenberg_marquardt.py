"""Levenberg-Marquardt: the linearised residual is minimised in a ball of the scaled unknowns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hvplib.optim.ending import Ended
from hvplib.optim.evaluation import Point
from hvplib.optim.fit_methods import LevenbergMarquardt
from hvplib.optim.linear_model import DenseModel, DenseModels, KrylovModel, KrylovModels, ModelStep
from hvplib.optim.methods import Method
from hvplib.optim.squares import Fit

__all__ = ["LevenbergMarquardtSteps"]

# Step of the difference that gives the second derivative along the path, as a share of the step.
_ALONG = 0.1
# Roundings in that difference.
_ROUNDINGS = 10.0


class LevenbergMarquardtSteps:
    """x ← x + s with s = argmin ‖r + J s‖ in ‖D s‖ ≤ Δ, that is (JᵀJ + λ D²) s = −Jᵀr with a λ ≥ 0.

    With ρ the ratio of f's decrease to the model's: Δ ← ½ or ¼ ‖D s‖ where ρ < ¼; Δ ← max(Δ, 2 ‖D s‖) where
    ρ > ¾. Steps with ρ > 10⁻⁴ are taken.

    Args:
        fit: What is minimised.
        models: Makes the model at a point, which knows its D.
        settings: The first Δ, as a share of ‖D x‖ (of 1 where that is zero); and the largest ratio
            2‖D a‖ / ‖D s‖ with which the geodesic acceleration a is added as ½ a, with dense models: a step
            with a larger one is made shorter.

    Source: J. J. Moré 1978, 10.1007/BFb0067700; of the acceleration, M. K. Transtrum, J. P. Sethna 2012,
    arXiv:1201.5885.
    """

    accepted = 1e-4

    def __init__(self, fit: Fit, models: DenseModels | KrylovModels, settings: LevenbergMarquardt) -> None:
        self._fit = fit
        self._models = models
        self.settings: Method = settings
        self._share = settings.initial_radius
        self._acceleration = settings.acceleration
        self._radius: float | None = None

    def advance(self, point: Point) -> Point:
        """A lower point, from steps in one and the same model.

        Raises:
            Ended: There is none, as far as the precision tells.
        """
        model = self._models.at(point)
        radius = self._share * (model.length(point.x) or 1.0) if self._radius is None else self._radius
        size = model.length(point.x)
        refuted = 0.0
        while True:
            step = model.ball(radius)
            s = self._accelerated(point, model, step)
            if s is None:
                radius = step.norm / 4
            else:
                trial = self._fit.at(point.x + s[:, 0])
                actual = self._fit.decrease(point, trial, s)
                self._radius = radius = _resized(radius, step, actual)
                if actual >= self.accepted * step.predicted > 0:
                    return trial
                if step.norm <= self._fit.eps**0.5 * size:
                    refuted = max(refuted, step.predicted)
            if not radius > max(self._fit.eps * size, 1e-300):
                raise Ended(self._fit.stalled(point, refuted))

    def restart(self, length: float) -> None:
        """A step was made by other means."""
        self._radius = None

    def _accelerated(self, point: Point, model: DenseModel | KrylovModel, step: ModelStep) -> Tensor | None:
        """s + ½ a with (JᵀJ + λ D²) a = −Jᵀ r″, r″ the second derivative along s; None if a is too long."""
        if not self._acceleration or not isinstance(model, DenseModel):
            return step.s
        r = self._fit.squares(point).residual
        ahead = self._fit.residual(point, point.x + _ALONG * step.s[:, 0])
        if not bool(torch.isfinite(ahead).all()):
            return None
        slope = self._fit.push(point, step.s)[:, 0]
        second = (2 / _ALONG) * ((ahead - r) / _ALONG - slope)
        if float(second.double().norm()) <= _ROUNDINGS * self._fit.rounding(point) / _ALONG**2:
            return step.s
        a = model.correction(self._fit.pull(point, second.unsqueeze(1)), step.damping)
        if not 2 * model.length(a) <= self._acceleration * step.norm:
            return None
        return step.s + a / 2


def _resized(radius: float, step: ModelStep, actual: float) -> float:
    ratio = actual / step.predicted if step.predicted > 0 else -math.inf
    if ratio < 0.25:
        return step.norm * (0.5 if actual >= -step.predicted else 0.25)
    return max(radius, 2 * step.norm) if ratio > 0.75 else radius
