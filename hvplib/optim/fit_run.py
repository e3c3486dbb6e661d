"""When a least-squares fit is done: orthogonality of the residual, and the curvature of ½‖r‖²."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Point
from hvplib.optim.run import Run, Tolerances
from hvplib.optim.squares import Fit
from hvplib.optim.whole_curvature import settled, whole_curvature

__all__ = ["FitRun", "Orthogonality", "measured_noise"]

_NOWHERE = (Ending.STAGNATED, Ending.NOT_SMOOTH)
# How far an unknown has gone, relative to where it started, that is said to have run off.
_FAR = 10.0
# Power of eps: what is measured may be that share of ‖r‖, and still be called rounding.
_NOISIEST = 1 / 3
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

    def _cause(self) -> Ending:
        return Ending.STAGNATED  # looked at more closely by `to_end`

    def _certified(self) -> bool:
        assert isinstance(self.tolerances, Orthogonality)
        if self.tolerances.vanishes(self.point):
            self.certificate = "minimum"
            if self.fit.dense:
                self.fit.factor(self.point)  # of which the statistics are made
            return True
        if self.fit.dense and self._strictly():
            self.certificate = "minimum"
            return True
        if not super()._certified():
            return False
        if self.certificate == "undecided" and self._ran_off():
            raise Ended(Ending.UNBOUNDED)
        return True

    def _strictly(self) -> bool:
        """Whether curvature is positive, and stays so as far as the minimum can be."""
        self.curvature = curvature = whole_curvature(self.fit, self.point)
        return curvature.positive and settled(self.fit, self.point, curvature)

    def _ran_off(self) -> bool:
        """Whether an unknown went so far that r does not depend on it any more, as on x in e⁻ˣ."""
        if self.fit.largest is None:
            return False
        norms = self.fit.factor(self.point).norms
        faded = (norms <= self.fit.eps * self.fit.largest) & (self.fit.largest > 0)
        start = self.fit.start.x
        far = (self.point.x - start).abs() > _FAR * start.abs().clamp(min=1.0)
        return bool((faded.to(far.device) & far).any())


def measured_noise(fit: Fit, point: Point) -> float:
    """‖σ‖, the rounding error of r at a point: what short moves of x change beside J s.

    The moves are of a few roundings of x, and of √eps x, since r may be rounded much more coarsely than x;
    what r'' makes of these is of the size of a rounding still. Zero where σ is more than eps^⅓ ‖r‖: r then
    has a jump. Six evaluations and six products.
    """
    squares = fit.squares(point)
    norms = fit.factor(point).scale.to(point.x) if fit.dense else fit.jacobian_norm(point)
    size = torch.maximum(point.x.abs(), squares.norm / torch.as_tensor(norms).to(point.x))
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for share in (4 * fit.eps, fit.eps**0.5 / 4, fit.eps**0.5):
        for _ in range(2):
            signs = fit.space.random(generator=generator, distribution="rademacher")
            there = point.x + share * size * signs
            step = (there - point.x).unsqueeze(1)
            change = fit.residual(point, there) - squares.residual
            error = float((change - fit.push(point, step)[:, 0]).double().norm())
            largest = max(largest, math.inf if math.isnan(error) else error)
    return largest if largest <= fit.eps**_NOISIEST * squares.norm else 0.0
