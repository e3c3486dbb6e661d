"""The quadratic model of a loss and its damped minimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from hvplib.krylov.cg import cg
from hvplib.results.status import Status

__all__ = ["DampedModel", "ModelStep"]

Block = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ModelStep:
    """A step of the damped model.

    Attributes:
        step: s (n, 1).
        status: How the conjugate gradients ended.
        num_iter: Their steps.
    """

    step: Tensor
    status: Status
    num_iter: int


class DampedModel:
    """q(s) = gᵀs + ½ sᵀB s, and the minimiser of q(s) + ½ sᵀΛ s.

    Args:
        product: X ↦ B X of blocks (n, 1).
        gradient: g (n, 1).
        damping: Λ, a number or the diagonal (n, 1).

    Attributes:
        num_matvecs: Products made.
    """

    def __init__(self, product: Block, gradient: Tensor, damping: Tensor | float) -> None:
        self._product: Block | None = product
        self.gradient = gradient
        self._damping = damping
        self.num_matvecs = 0

    def product(self, X: Tensor) -> Tensor:
        """B X."""
        assert self._product is not None, "released"
        self.num_matvecs += X.shape[1]
        return self._product(X)

    def release(self) -> None:
        """Let go of the products, and of the graphs behind them."""
        self._product = None

    def _damped(self, X: Tensor) -> Tensor:
        return self.product(X) + self._damping * X

    def minimise(self, start: Tensor | None, *, rtol: float, max_iter: int) -> ModelStep:
        """(B + Λ) s = −g by conjugate gradients: until ‖g + (B + Λ) s‖ ≤ rtol ‖g‖, or max_iter steps.

        From `start` only if the damped model is lower there than at zero, so that it is lower at s than at
        both. Where a direction p without positive curvature is met, s moves on along p by rᵀp / (|c| pᵀp),
        with r = −g − (B + Λ) s and c the curvature, not below the largest damping: as far as to the minimum
        if the curvature were as large and positive. But no further than by ‖s‖, unless s = 0.

        Args:
            start: Where to begin (n, 1); zero if None. Costs a product.
            rtol: Tolerance.
            max_iter: Most steps, a product each.

        References:
            J. Martens (2010), Deep learning via Hessian-free optimization, ICML, section 4.
        """
        b = -self.gradient
        atol = rtol * float(b.norm())
        residual = b
        if start is not None:
            image = self._damped(start)
            if not float((start * (0.5 * image - b)).sum()) < 0:
                start = None
            else:
                residual = b - image
        # An infinite radius: the iterate with the least value of the model, not with the least residual.
        outcome = cg(self._damped, residual, rtol=0.0, atol=atol, max_iter=max_iter, radius=math.inf)
        step = outcome.x if start is None else start + outcome.x
        if outcome.direction is not None and outcome.curvature is not None:
            step = step + self._along(outcome.direction, float(outcome.curvature[0]), b, step)
        return ModelStep(step, outcome.statuses[0], outcome.num_iter)

    def _along(self, direction: Tensor, curvature: float, b: Tensor, step: Tensor) -> Tensor:
        largest = float(self._damping.max()) if isinstance(self._damping, Tensor) else self._damping
        size = max(abs(curvature), largest)
        if size == 0:
            return direction * 0
        slope = float(((b - self._damped(step)) * direction).sum())
        norm, done = float(direction.norm()), float(step.norm())
        length = slope / (size * norm)
        return (min(length, done) if done > 0 else length) / norm * direction

    def decrease(self, step: Tensor) -> tuple[float, float, float]:
        """−q(d) without the damping, gᵀd and dᵀB d; one product."""
        slope = float((self.gradient * step).sum())
        curvature = float((step * self.product(step)).sum())
        return -slope - 0.5 * curvature, slope, curvature
