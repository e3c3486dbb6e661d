"""One step of a damped Newton method on a closure: linearise, solve, try, judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from hvplib.optim.before_step import BeforeStep, put
from hvplib.optim.closure_curvature import gradient, linearised, prove
from hvplib.optim.closures import Closure, Result
from hvplib.optim.damped_model import DampedModel
from hvplib.optim.damping_rule import reduction_ratio
from hvplib.results.status import Status
from hvplib.space import Space

__all__ = ["Attempt", "Settings", "StepReport", "Weights"]

# Share of the slope that a step must gain for the line search to take it, and how often it halves the step.
_ARMIJO = 1e-4
_HALVINGS = 10

Diagonal = float | Tensor


@dataclass(frozen=True)
class Settings:
    """What the whole optimizer shares; see `NewtonCG`."""

    curvature: str
    max_cg_iter: int
    cg_rtol: float
    line_search: bool


@dataclass(frozen=True)
class Weights:
    """What parameter groups may differ in: numbers, or diagonals (n, 1)."""

    lr: Diagonal
    damping: Diagonal
    weight_decay: Diagonal


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Attributes:
        accepted: Whether the parameters moved.
        value: Loss and L2 penalty before the step.
        trial_value: The same after it; of the last trial if none was accepted.
        predicted: The decrease that the quadratic model foretold, for the whole step.
        ratio: The decrease of the whole step beside it; None where rounding hides it, or no step was tried.
        share: The share of the step that was made (less than one by the line search, 0 if rejected).
        gradient_norm: ‖g‖.
        step_norm: ‖d‖ of the whole step.
        curvature: dᵀB d / dᵀd.
        damping: The largest damping that was in force.
        cg_status: How the conjugate gradients ended.
        num_matvecs: Products.
        num_evaluations: Calls of the closures, checks aside.
    """

    accepted: bool
    value: float
    trial_value: float
    predicted: float
    ratio: float | None
    share: float
    gradient_norm: float
    step_norm: float
    curvature: float
    damping: float
    cg_status: Status
    num_matvecs: int
    num_evaluations: int


class Attempt:
    """A step in the making.

    Args:
        params: The unknowns.
        space: Their space.
        before: Their values.
        closure, curvature_closure: The user's.
        weights, settings: The numbers.

    Attributes:
        loss: The closure's, before the step.
        solution: s (n, 1), where the step was accepted.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        space: Space,
        before: BeforeStep,
        closure: Callable[[], Any],
        curvature_closure: Callable[[], Any] | None,
        *,
        weights: Weights,
        settings: Settings,
    ) -> None:
        self._params = params
        self._space = space
        self._closure = Closure(before.watched(closure))
        self._curvature_closure = None if curvature_closure is None else before.watched(curvature_closure)
        self._other: Closure | None = None
        self._weights = weights
        self._settings = settings
        self._start = before.values
        self._evaluations = 0
        self.solution: Tensor | None = None
        self.loss: Tensor

    def run(self, warm_start: Tensor | None, *, verify: bool) -> StepReport:
        """Make the step: the parameters are moved, or as they were.

        Args:
            warm_start: Where the conjugate gradients start (n, 1); zero if None.
            verify: Whether the products are proven first.
        """
        with self._closure.session():
            model, value = self._linearised(verify)
            norm = float(model.gradient.norm())
            if not (math.isfinite(value) and math.isfinite(norm)):
                return self._unmoved(value, norm, Status.NON_FINITE)
            if norm == 0:
                return self._unmoved(value, norm, Status.CONVERGED)
            rtol, max_iter = self._settings.cg_rtol, self._settings.max_cg_iter
            found = model.minimise(warm_start, rtol=rtol, max_iter=max_iter)
            step = self._weights.lr * found.step
            predicted, slope, curvature = model.decrease(step)
            # The graphs go before the closure makes others.
            model.release()
            ratio, trial, share = self._try(step, value, predicted, slope)
        if share > 0:
            self.solution = found.step
        square = float(step.square().sum())
        return StepReport(
            accepted=share > 0,
            value=value,
            trial_value=trial,
            predicted=predicted,
            ratio=ratio,
            share=share,
            gradient_norm=norm,
            step_norm=math.sqrt(square),
            curvature=curvature / square if square > 0 else 0.0,
            damping=largest(self._weights.damping),
            cg_status=found.status,
            num_matvecs=model.num_matvecs,
            num_evaluations=self._evaluations,
        )

    def settle(self) -> None:
        """Leave generators and running statistics as one call of each closure would have."""
        self._closure.settle()
        if self._other is not None:
            self._other.advance()

    def _linearised(self, verify: bool) -> tuple[DampedModel, float]:
        """The quadratic model, and the loss with the penalty."""
        kind = self._settings.curvature
        if self._curvature_closure is None:
            result = self._evaluated(self._closure, kind if verify else None)
            B = linearised(self._closure, result, self._params, kind)
            slope = B.gradient
        else:
            result = self._evaluated(self._closure, None)
            slope = gradient(result, self._params)
            # The generators are where the closure has left them.
            other = self._other = Closure(
                self._curvature_closure, name="curvature_closure", updates_statistics=False
            )
            with other.session():
                B = linearised(other, self._evaluated(other, kind if verify else None), self._params, kind)
        self.loss = result.loss.detach()
        decay = self._weights.weight_decay

        def product(X: Tensor) -> Tensor:
            image = B.product(tree_leaves(self._space.unflatten(X[:, 0])))
            return self._space.flatten(list(image)).unsqueeze(1) + decay * X

        flat = self._space.flatten(slope).unsqueeze(1)
        penalised = flat + decay * self._point() if largest(decay) > 0 else flat
        value = float(self.loss) + self._penalty()
        return DampedModel(product, penalised, self._weights.damping), value

    def _evaluated(self, closure: Closure, proof_of: str | None) -> Result:
        self._evaluations += 1
        if proof_of is not None:
            prove(closure, self._params, proof_of)
        return closure.result()

    def _unmoved(self, value: float, norm: float, status: Status) -> StepReport:
        """The report of a step that there is no reason to make."""
        return StepReport(
            accepted=False,
            value=value,
            trial_value=value,
            predicted=0.0,
            ratio=None,
            share=0.0,
            gradient_norm=norm,
            step_norm=0.0,
            curvature=0.0,
            damping=largest(self._weights.damping),
            cg_status=status,
            num_matvecs=0,
            num_evaluations=self._evaluations,
        )

    def _try(
        self, step: Tensor, value: float, predicted: float, slope: float
    ) -> tuple[float | None, float, float]:
        """ρ of the whole step, the last value, and the share of the step that was made."""
        eps = torch.finfo(self._closure.precision(self._params)).eps
        trial = math.nan
        ratio: float | None = None
        share = 1.0
        for halving in range(_HALVINGS + 1 if self._settings.line_search else 1):
            share = 0.5**halving
            self._move(share * step)
            self._evaluations += 1
            trial = self._closure.value() + self._penalty()
            if halving == 0:
                ratio = reduction_ratio(value, trial, predicted, eps)
            bound = value + _ARMIJO * share * slope if self._settings.line_search else value
            if trial <= bound and predicted > 0:
                return ratio, trial, share
        put(self._params, self._start)
        return ratio, trial, 0.0

    def _move(self, step: Tensor) -> None:
        parts = tree_leaves(self._space.unflatten(step[:, 0]))
        put(self._params, [x + part for x, part in zip(self._start, parts, strict=True)])

    def _point(self) -> Tensor:
        return self._space.flatten([p.detach() for p in self._params]).unsqueeze(1)

    def _penalty(self) -> float:
        """½ Σ decay_i θ_i²."""
        decay = self._weights.weight_decay
        return 0.5 * float((decay * self._point().double().square()).sum()) if largest(decay) > 0 else 0.0


def largest(diagonal: Diagonal) -> float:
    """The largest entry."""
    return float(diagonal.max()) if isinstance(diagonal, Tensor) else diagonal
