"""Adaptive cubic regularisation: the quadratic model, and a cubic term whose weight follows its success."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from hvplib.optim.decrease import decrease
from hvplib.optim.doubts import Doubts
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Objective, Point
from hvplib.optim.forcing import Forcing
from hvplib.optim.methods import Method
from hvplib.optim.trust_region import BallStep

__all__ = ["CubicModel", "CubicRegularisation", "CubicStep"]

# σ is never smaller: a model without any cubic term has no minimum where curvature is negative.
_LEAST = 1e-200
# Of the stiffness of the model along its step: what σ begins with where that is shorter than asked for.
_LIGHT = 0.01


class CubicStep(BallStep, Protocol):
    """A minimiser of the model, in a ball or with a cubic term, which its `predicted` then includes."""

    @property
    def multiplier(self) -> float:
        """μ in (∇²f + μM) s = −∇f; σ ‖s‖_M of a cubic term."""


class CubicModel(Protocol):
    """The quadratic model at one point, as far as it is known."""

    def ball(self, radius: float) -> CubicStep: ...

    def cubic(self, sigma: float) -> CubicStep: ...

    def leave(self) -> None: ...


class CubicRegularisation:
    """x ← x + s with s ≈ argmin ∇fᵀs + ½ sᵀ∇²f s + (σ/3) ‖s‖_M³, if f falls by at least η of what this says.

    What f shows along s is σ_f = 3 (f(x + s) − q(s)) / ‖s‖³, with q the quadratic model: the σ with which the
    model would have been right. With ρ the ratio of both decreases: where ρ > 0.9, σ ← σ_f, but at least
    σ/10 and at most σ. Where ρ < ¼, σ ← σ_f, but such that the next step from here is between a half and a
    sixteenth as long as this one: the step of length Δ is that in the ball of radius Δ, so it needs
    σ = μ(Δ)/Δ, which is read off the Krylov space that is there. However wrong σ was, the steps that f
    rejects halve at least, and cost no products.

    Args:
        objective: What is minimised.
        settings: The method's numbers.
        subproblem: From a point and the relative tolerance on the model's gradient to the model.
        initial_length: σ begins such that the first step is at most so long.

    Attributes:
        sigma: σ; None until the first step.

    Source: C. Cartis, N. I. M. Gould, Ph. L. Toint 2011, 10.1007/s10107-009-0286-5; that σ should follow an
    interpolation of f, N. I. M. Gould, M. Porcelli, Ph. L. Toint 2012, 10.1007/s10589-011-9446-7.
    """

    accepted = 1e-4

    def __init__(
        self,
        objective: Objective,
        settings: Method,
        subproblem: Callable[[Point, float], CubicModel],
        *,
        initial_length: float = 1.0,
    ) -> None:
        self.settings = settings
        self.sigma: float | None = None
        self._length = initial_length
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
        model = self._subproblem(point, self._forcing.tolerance(point))
        if self.sigma is None:
            self.sigma = _first(model, self._length)
        doubts = Doubts(point)
        while True:
            step = model.cubic(self.sigma)
            trial = self._objective.moved(point, step.s)
            actual = decrease(point, trial, step.s)
            self.sigma = max(_revised(self.sigma, model, step, actual), _LEAST)
            if actual >= self.accepted * step.predicted > 0:
                model.leave()
                return trial
            doubts.add(step.predicted, step.norm, actual)
            if step.norm <= point.eps * float(point.x.norm()) or step.norm < 1e-150:
                raise Ended(doubts.ending)

    def restart(self, length: float) -> None:
        """A step of this length was made by other means: σ begins anew, with steps of such a length."""
        self.sigma, self._length = None, max(length, self._length)


def _first(model: CubicModel, length: float) -> float:
    """σ with which the step has this length; or a small one, if it is shorter without a cubic term."""
    step = model.ball(length)
    if step.multiplier > 0:
        return step.multiplier / step.norm
    return max(_LIGHT * 2 * step.predicted / step.norm**3, _LEAST) if step.norm > 0 else _LEAST


def _revised(sigma: float, model: CubicModel, step: CubicStep, actual: float) -> float:
    """σ after a step by which f fell by `actual`."""
    ratio = actual / step.predicted if step.predicted > 0 else -math.inf
    if 0.25 <= ratio <= 0.9:
        return sigma
    # The quadratic model alone promised more, by the cubic term σ/3 ‖s‖³ = μ/3 ‖s‖².
    excess = step.predicted + step.multiplier * step.norm**2 / 3 - actual
    shown = 3 * excess / step.norm**2 / step.norm if step.norm > 0 else math.inf
    if ratio > 0.9:
        return max(min(sigma, shown), sigma / 10)
    if shown == math.inf:
        return _for_length(model, step.norm / 4)
    return min(max(shown, _for_length(model, step.norm / 2)), _for_length(model, step.norm / 16))


def _for_length(model: CubicModel, length: float) -> float:
    """σ with which the step has this length, which is less than that of the last."""
    step = model.ball(length)
    return step.multiplier / step.norm
