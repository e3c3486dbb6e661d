"""The model ½‖r + J s‖² at one point, minimised through singular values of J, or by products with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hvplib.krylov.cg import cg
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Point
from hvplib.optim.forcing import Forcing
from hvplib.optim.squares import Factor, Fit
from hvplib.results.status import Status

__all__ = ["DenseModel", "DenseModels", "KrylovModel", "KrylovModels", "ModelStep"]

# ‖D s‖ may be off the radius by this share: a trust region is a rough thing.
_BALL = 1e-2
_ROOT_STEPS = 100


@dataclass(frozen=True)
class ModelStep:
    """A step in the model.

    Attributes:
        s: (n, 1), like the point.
        predicted: How much the model falls.
        norm: ‖D s‖.
        on_boundary: Whether that is the radius.
        damping: λ of (JᵀJ + λ D²) s = −Jᵀr.
    """

    s: Tensor
    predicted: float
    norm: float
    on_boundary: bool
    damping: float


class DenseModel:
    """min ½‖r + J s‖² + ½ λ ‖D s‖² for any λ, from one singular value decomposition of J D⁻¹.

    Args:
        factor: J and r, factored.
        scale: The diagonal (n,) of D, positive.
        eps: Relative error of J: singular values below max(m, n) eps σ_max are taken for zero.
        like: What the steps are to be like.

    Attributes:
        rank: Number of singular values that are not.
    """

    def __init__(self, factor: Factor, scale: Tensor, eps: float, like: Tensor) -> None:
        self._like = like
        U, self.s, Vh = torch.linalg.svd(factor.R / scale, full_matrices=False)
        self._scale, self._Vh = scale, Vh
        self._b = U.mT @ factor.c
        smallest = max(factor.J.shape) * eps * float(self.s[0]) if len(self.s) else 0.0
        self.rank = int((self.s > smallest).sum())

    def ball(self, radius: float) -> ModelStep:
        """The step with ‖D s‖ ≤ radius: λ = 0 if it lies inside, else λ > 0 with ‖D s‖ = radius.

        λ is the root of the secular equation 1/‖D s(λ)‖ = 1/radius, concave in λ, by Newton's method from
        the left, which cannot overshoot; up to a hundredth of the radius.

        Source: J. J. Moré 1978, 10.1007/BFb0067700, with singular values in place of a QR factorisation for
        each λ.
        """
        inside = self.damped(0.0)
        if inside.norm <= radius:
            return inside
        s, b = self.s[: self.rank], self._b[: self.rank]
        damping = 0.0
        for _ in range(_ROOT_STEPS):
            denominators = s * s + damping
            y = s * b / denominators
            norm = float(y.norm())
            if not norm > (1 + _BALL) * radius:
                break
            slope = float((y * y / denominators).sum()) / norm
            damping += (norm - radius) / radius * norm / slope
        step = self.damped(damping)
        return ModelStep(step.s, step.predicted, step.norm, True, damping)

    def length(self, x: Tensor) -> float:
        """‖D x‖ of a vector (n,) or (n, 1)."""
        return float((self._scale * x.reshape(-1).to(self._scale)).norm())

    def damped(self, damping: float) -> ModelStep:
        """The step for a λ; of least ‖D s‖ where several minimise."""
        s, b = self.s[: self.rank], self._b[: self.rank]
        shares = s * s / (s * s + damping)
        y = -b * shares / s
        predicted = float((b * b * shares * (1 - shares / 2)).sum())
        step = (self._Vh[: self.rank].mT @ y) / self._scale
        return ModelStep(self._column(step), predicted, float(y.norm()), False, damping)

    def correction(self, pulled: Tensor, damping: float) -> Tensor:
        """−(JᵀJ + λ D²)⁻¹ g (n, 1) for a g (n, 1) in the range of Jᵀ."""
        along = self._Vh[: self.rank] @ (pulled[:, 0].to(self._scale) / self._scale)
        s = self.s[: self.rank]
        return self._column(-(self._Vh[: self.rank].mT @ (along / (s * s + damping))) / self._scale)

    def shortest(self) -> ModelStep:
        """The Gauss-Newton step of least Euclidean norm."""
        step = self.damped(0.0)
        if self.rank == self._scale.shape[0]:
            return step
        # Rank is told best in the scaled unknowns; the null space is then taken out in the user's own.
        complement = torch.linalg.svd(self._Vh[: self.rank], full_matrices=True)[2][self.rank :]
        null = torch.linalg.qr(complement.mT / self._scale.unsqueeze(1))[0].to(step.s)
        return replace(step, s=step.s - null @ (null.mT @ step.s))

    def _column(self, s: Tensor) -> Tensor:
        return s.to(self._like).unsqueeze(1)


class DenseModels:
    """Models with J computed whole: min(m, n) products each.

    Args:
        fit: The accounts.
        remembers: Whether D_j is the largest ‖J_j‖ so far, and not the present one.
    """

    def __init__(self, fit: Fit, *, remembers: bool) -> None:
        self._fit, self._remembers = fit, remembers
        self._scale: Tensor | None = None

    def at(self, point: Point) -> DenseModel:
        """The model at a point."""
        factor = self._fit.factor(point)
        if not bool(torch.isfinite(factor.R).all() and torch.isfinite(factor.c).all()):
            raise Ended(Ending.NON_FINITE)
        scale = factor.scale
        if self._remembers and self._scale is not None:
            scale = torch.maximum(self._scale, factor.norms)
        self._scale = scale
        return DenseModel(factor, scale, self._fit.eps, point.x)


class KrylovModel:
    """The model by conjugate gradients on JᵀJ s = −Jᵀr, cut at ‖s‖ = Δ: two products a step, D = I.

    Args:
        fit: The accounts.
        point: Of the model.
        rtol: ‖Jᵀ(r + J s)‖ ≤ rtol ‖Jᵀr‖ ends the iteration inside.
        max_iter: Most steps.

    Source: M. R. Hestenes, E. Stiefel 1952, 10.6028/jres.049.044; T. Steihaug 1983, 10.1137/0720042.
    """

    def __init__(self, fit: Fit, point: Point, rtol: float, max_iter: int) -> None:
        self._fit, self._point, self._rtol, self._max_iter = fit, point, rtol, max_iter

    def ball(self, radius: float) -> ModelStep:
        """The step for a radius.

        Raises:
            Ended: A product was not finite, before any step was made.
        """
        outcome = cg(
            self._normal,
            -self._point.gradient,
            rtol=self._rtol,
            max_iter=self._max_iter,
            radius=radius,
        )
        if outcome.decrease is None or outcome.lengths is None:  # of a gradient that is zero
            return ModelStep(torch.zeros_like(outcome.x), 0.0, 0.0, False, math.nan)
        predicted, length = float(outcome.decrease), float(outcome.lengths)
        if outcome.statuses[0] is Status.NON_FINITE and not predicted > 0:
            raise Ended(Ending.NON_FINITE)
        return ModelStep(outcome.x, predicted, length, outcome.statuses[0] is Status.BOUNDARY, math.nan)

    def shortest(self) -> ModelStep:
        """The Gauss-Newton step; started from zero, it has no part in the null space of J."""
        return self.ball(math.inf)

    def length(self, x: Tensor) -> float:
        """‖x‖."""
        return float(torch.linalg.vector_norm(x))

    def _normal(self, V: Tensor) -> Tensor:
        pushed = self._fit.push(self._point, V)
        return self._fit.pull(self._point, pushed)


class KrylovModels:
    """Models by products only; how exactly they are minimised follows the progress.

    Args:
        fit: The accounts.
        max_iter: Most steps of conjugate gradients for one step.
    """

    def __init__(self, fit: Fit, *, max_iter: int) -> None:
        self._fit, self._max_iter = fit, max_iter
        self._forcing = Forcing()

    def at(self, point: Point) -> KrylovModel:
        """The model at a point."""
        return KrylovModel(self._fit, point, self._forcing.tolerance(point), self._max_iter)
