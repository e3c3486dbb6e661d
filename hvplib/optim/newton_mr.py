"""Directions of an inexact Newton method by minimal residuals, and the negative curvature they meet."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hvplib.krylov.curvatures import Curvatures
from hvplib.optim.descent import Direction, flat
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Point

__all__ = ["minimal_residuals"]


def minimal_residuals(
    point: Point, rtol: float, *, max_iter: int, precondition: Callable[[Tensor], Tensor] | None
) -> Direction:
    """d = argmin ‖∇f + ∇²f d‖ over a Krylov space, or a residual r with rᵀ∇²f r ≤ 0 that was met on the way.

    As long as their residuals have positive curvature, the iterates of MINRES are those of the method of
    conjugate residuals, and lead downhill. That method multiplies with the residual itself, so it ends at the
    first one along which curvature is not positive, where `hvplib.krylov.minres` would go on; and
    rᵀ∇f = −‖r‖² < 0, so f falls along it. Otherwise it ends at the first of

    * ‖r‖ ≤ rtol ‖∇f‖;
    * ‖∇²f r‖ ≤ rtol² ‖∇²f d‖, which comes also where ∇²f is singular and ∇f is not in its range;
    * max_iter products.

    Memory of seven vectors.

    Args:
        point: x.
        rtol: Relative tolerance, below one.
        max_iter: Most products.
        precondition: R ↦ P R with P ≈ ∇²f⁻¹ positive definite. Then ‖r‖_P is least, and curvature is looked
            for along P r.

    Raises:
        Ended: A product was not finite, or the preconditioner not positive definite.

    Sources: E. Stiefel 1955, 10.1007/BF02564277 (conjugate residuals); Y. Liu, F. Roosta 2022,
    10.1137/21M143666X (the curvature of the residuals) and arXiv:2208.07095 (the directions); F. Roosta,
    Y. Liu, P. Xu, M. W. Mahoney 2018, arXiv:1810.00303 (the second stop).
    """
    gradient = point.gradient
    r, d = -gradient, torch.zeros_like(gradient)
    z = r if precondition is None else precondition(r)
    p = q = torch.zeros_like(gradient)
    before, curvatures, norm = math.inf, Curvatures(torch.finfo(r.dtype).eps), float(gradient.norm())
    for _ in range(max_iter):
        w = point.hvp(z)
        zw, zz, ww, hd = torch.cat(
            [_dots(z, w), _dots(z, z), _dots(w, w), _dots(r + gradient, r + gradient)]
        ).tolist()
        if not math.isfinite(zw + zz + ww):
            raise Ended(Ending.NON_FINITE)
        if zz == 0:
            break
        if curvatures.meet(zw / zz, math.sqrt(ww / zz)):
            return flat(point, z, zw / zz)
        if math.sqrt(ww) <= rtol**2 * math.sqrt(hd):
            break
        p, q = z + zw / before * p, w + zw / before * q
        u = q if precondition is None else precondition(q)
        qu = float(_dots(q, u))
        if not qu > 0:
            raise Ended(Ending.INDEFINITE_PRECONDITIONER)
        alpha = zw / qu
        d, r, z = d + alpha * p, r - alpha * q, z - alpha * u
        before = zw
        if float(r.norm()) <= rtol * norm:
            break
    return Direction(d)


def _dots(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(dim=0)
