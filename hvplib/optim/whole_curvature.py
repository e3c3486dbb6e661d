"""The second-order check of a fit with few unknowns: the whole Hessian, in the units of J's columns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hvplib.optim.certificate import Curvature, rounding_of
from hvplib.optim.evaluation import Point
from hvplib.optim.squares import Fit

__all__ = ["WholeCurvature", "settled", "whole_curvature"]


@dataclass(frozen=True)
class WholeCurvature(Curvature):
    """The least eigenvalue λ of S = D⁻¹ ∇²f D⁻¹, D_j = ‖J_j‖, and d = D⁻¹ w of its eigenvector w.

    The signs of the eigenvalues are those of ∇²f, and rounding hides less of them: columns of J often differ
    by many orders of magnitude. The numbers are those along d of length one: dᵀ∇²f d = λ ‖D d‖².

    Attributes:
        scaled: S (n, n), float64, on the CPU.
    """

    scaled: Tensor = field(kw_only=True)


def whole_curvature(fit: Fit, point: Point) -> WholeCurvature:
    """The curvature at a point where J was computed whole: n products with the Hessian, once."""
    squares = fit.squares(point)
    if squares.curvature is None:
        squares.curvature = _curvature(point, fit.factor(point).scale)
    assert isinstance(squares.curvature, WholeCurvature)
    return squares.curvature


def settled(fit: Fit, point: Point, curvature: WholeCurvature) -> bool:
    """Whether ∇²f(x + 2 p) is ∇²f(x) to within a half of it, p = −(∇²f)⁻¹ ∇f the Newton step at x.

    If so in the whole ball around x that reaches there, in the norm of ∇²f(x), there is a minimum in it, and
    only one. Where the Hessian changes by more that near, as that of x⁴ does near zero, x may be on the way
    to a degenerate point. The answer does not depend on the units of x. Spends a point and n products.

    Source: the idea of L. V. Kantorovich's theorem on Newton's method (1948).
    """
    scale = fit.factor(point).scale
    root = torch.linalg.cholesky(curvature.scaled)
    slope = point.gradient.cpu().double() / scale.unsqueeze(1)
    p = -torch.cholesky_solve(slope, root) / scale.unsqueeze(1)
    trial = fit.at(point.x + 2 * p[:, 0].to(point.x))
    if torch.equal(trial.x, point.x):
        return True
    change = _scaled(trial, scale) - curvature.scaled
    if not bool(torch.isfinite(change).all()):
        return False
    relative = torch.linalg.solve_triangular(root, change, upper=False)
    relative = torch.linalg.solve_triangular(root, relative.mT, upper=False)
    return float(torch.linalg.eigvalsh(relative).abs().max()) <= 0.5


def _curvature(point: Point, scale: Tensor) -> WholeCurvature:
    n = scale.shape[0]
    S = _scaled(point, scale)
    if not bool(torch.isfinite(S).all()):
        nothing = torch.zeros_like(point.gradient)
        return WholeCurvature(math.nan, -math.inf, nothing, math.nan, point.eps, 0.0, n, scaled=S)
    values, vectors = torch.linalg.eigh(S)
    direction = vectors[:, 0] / scale
    direction = direction / torch.linalg.vector_norm(direction)
    unit = float((direction * scale).square().sum())
    least, norm = float(values[0]) * unit, float(values.abs().max()) * unit
    d = direction.to(point.gradient).unsqueeze(1)
    bound = least - rounding_of(norm, point.eps)
    return WholeCurvature(least, bound, d, norm, point.eps, 0.0, n, scaled=S)


def _scaled(point: Point, scale: Tensor) -> Tensor:
    """D⁻¹ ∇²f D⁻¹."""
    unit = torch.diag(1 / scale).to(point.gradient)
    H = point.hvp(unit).to("cpu", torch.float64) / scale.unsqueeze(1)
    return (H + H.mT) / 2
