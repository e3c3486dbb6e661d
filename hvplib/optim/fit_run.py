"""When a least-squares fit is done: orthogonality of the residual, and the curvature of ½‖r‖²."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hvplib.optim.certificate import Curvature
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Point
from hvplib.optim.run import Run, Tolerances
from hvplib.optim.squares import Fit

__all__ = ["FitRun", "Orthogonality", "measured_noise", "scaled_curvature"]

_NOWHERE = (Ending.STAGNATED, Ending.NOT_SMOOTH)
# How far an unknown has gone, relative to where it started, that is said to have run off.
_FAR = 10.0
# What is measured may be so many times what x alone makes of r, and still be called rounding.
_NOISIEST = 1e4
# Roundings in r that x itself makes, |J| |x| eps each.
_ROUNDINGS = 10.0


@dataclass(frozen=True)
class Orthogonality(Tolerances):
    """When r is taken for orthogonal to the columns of J.

    Attributes:
        fit: The accounts.
    """

    fit: Fit

    def stationary(self, point: Point) -> bool:
        """|J_jᵀ r| ≤ ‖J_j‖ max(gtol ‖r‖, σ) for all j, or r = 0 within rounding.

        σ is the rounding error of r, where it was measured. Where J is known by products only:
        ‖Jᵀr‖ ≤ ‖J‖ max(gtol ‖r‖, σ), with a lower bound for ‖J‖.
        """
        allowed = max(self.gtol * self.fit.squares(point).norm, self.fit.hidden)
        return self.vanishes(point) or self.fit.projection(point) <= allowed

    def vanishes(self, point: Point) -> bool:
        """Whether r = 0 within rounding: ‖r‖ ≤ 10 eps ‖|J| |x|‖, or ‖r‖ ≤ gtol eps ‖r(x_0)‖."""
        fit = self.fit
        norm = fit.squares(point).norm
        return norm <= self.gtol * fit.eps * fit.first_norm or norm <= _ROUNDINGS * fit.rounding(point)


class FitRun(Run):
    """The loop for least squares: it knows that ½‖r‖² cannot fall below zero."""

    @property
    def fit(self) -> Fit:
        """The accounts."""
        assert isinstance(self.objective, Fit)
        return self.objective

    def to_end(self) -> Ending:
        """Make steps until one of the ends is reached; what looks like stagnation is looked at more closely.

        r may be orthogonal to the columns of J as far as its own rounding errors let it, and not within gtol.
        These are measured where no step gets further. Or a column of J vanishes there, so that no angle with
        it can be told: then it is compared with its largest size so far, and the point must be a minimum by
        its curvature.
        """
        ending = super().to_end()
        if ending not in _NOWHERE:
            return ending
        try:
            self.fit.hidden = measured_noise(self.fit, self.point)
            if self.tolerances.stationary(self.point):
                return super().to_end()
            self.fit.lenient = True
            if not self.tolerances.stationary(self.point):
                return ending
        except Ended as ended:
            return ended.ending
        again = super().to_end()
        return ending if again.success and self.certificate != "minimum" else again

    def _certified(self) -> bool:
        assert isinstance(self.tolerances, Orthogonality)
        if self.tolerances.vanishes(self.point):
            self.certificate = "minimum"
            if self.fit.dense:
                self.fit.factor(self.point)  # of which the statistics are made
            return True
        if not super()._certified():
            return False
        if self.certificate == "undecided" and self._ran_off():
            raise Ended(Ending.UNBOUNDED)
        return True

    def _ran_off(self) -> bool:
        """Whether an unknown went so far that r does not depend on it any more, as on x in e⁻ˣ."""
        if self.fit.largest is None:
            return False
        norms = self.fit.factor(self.point).norms
        faded = (norms <= self.fit.eps * self.fit.largest) & (self.fit.largest > 0)
        start = self.fit.start.x
        far = (self.point.x - start).abs() > _FAR * start.abs().clamp(min=1.0)
        return bool((faded.to(far.device) & far).any())


def scaled_curvature(fit: Fit, point: Point) -> Curvature:
    """The least eigenvalue λ of D⁻¹ ∇²f D⁻¹, D_j = ‖J_j‖, and d = D⁻¹ w of its eigenvector: n products.

    The signs of the eigenvalues are those of ∇²f, and rounding hides less of them: columns of J often differ
    by many orders of magnitude. All numbers are given as they are along d of length one: dᵀ∇²f d = λ ‖D d‖².
    """
    scale = fit.factor(point).scale.to(point.x)
    n = scale.shape[0]
    H = point.hvp(torch.diag(1 / scale)) / scale.unsqueeze(1)
    H = H.to("cpu", torch.float64)
    if not bool(torch.isfinite(H).all()):
        return Curvature(math.nan, -math.inf, torch.zeros_like(point.gradient), math.nan, 0.0, n)
    values, vectors = torch.linalg.eigh((H + H.mT) / 2)
    direction = vectors[:, :1].to(point.gradient) / scale.unsqueeze(1)
    direction = direction / torch.linalg.vector_norm(direction)
    factor = float((direction[:, 0] * scale).norm()) ** 2
    least, norm = float(values[0]) * factor, float(values.abs().max()) * factor
    return Curvature(least, least, direction, norm, 0.0, n)


def measured_noise(fit: Fit, point: Point) -> float:
    """‖σ‖, the rounding error of r at a point: what a move of a few roundings of x changes beside J s.

    Zero where that is more than rounding can make: r then has a jump. Two evaluations and two products.
    """
    squares = fit.squares(point)
    norms = fit.factor(point).scale.to(point.x) if fit.dense else fit.jacobian_norm(point)
    size = torch.maximum(point.x.abs(), squares.norm / torch.as_tensor(norms).to(point.x))
    errors = []
    for sign in (4.0, -4.0):
        there = point.x + sign * fit.eps * size
        step = (there - point.x).unsqueeze(1)
        r = fit.residual(point, there) - squares.residual
        errors.append(float((r - fit.push(point, step)[:, 0]).double().norm()))
    largest = max(errors)
    return largest if largest <= _NOISIEST * fit.rounding(point) else 0.0
