"""Capped conjugate gradients: a Newton direction or negative curvature, for a known number of products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import torch
from torch import Tensor

from hvplib.optim.descent import Direction, flat
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Point

__all__ = ["capped_conjugate_gradients"]

Block = Callable[[Tensor], Tensor]


def capped_conjugate_gradients(
    point: Point, rtol: float, *, eps: float, max_iter: int, strict: bool = False
) -> Direction:
    """d with ‖∇f + H d‖ ≤ rtol ‖∇f‖ and dᵀH d ≥ ε ‖d‖², H = ∇²f + 2ε, or else dᵀ∇²f d < −ε ‖d‖².

    Conjugate gradients on H, with iterates y_j, residuals r_j and directions p_j. They end with the first of

    * yᵀH y < ε ‖y‖²: d = y_j.
    * ‖r_j‖ ≤ rtol ‖∇f‖, or rtol / (3κ) ‖∇f‖ if `strict`: d = y_j.
    * pᵀH p < ε ‖p‖²: d = p_j.
    * ‖r_j‖ > 2κ² τ^(j/2) / (1 − √τ) ‖∇f‖, with κ = (M + 2ε) / ε, τ = √κ / (√κ + 1), and M the largest
      ‖∇²f v‖ / ‖v‖ seen: slower than they can be if H ≥ ε. Then one of the differences d = y_j+1 − y_i has
      dᵀH d < ε ‖d‖²; it is found by running through the iterates once more.
    * j = max_iter: d = y_j.

    The number of products is thus at most about min(max_iter, √κ log(κ / rtol)), and three times that at
    worst. The reference's bound on the products of a whole minimisation is proven with a `strict` tolerance.
    On the classical problems that takes ten times the products of the other, with which negative curvature
    is found and used all the same.

    Args:
        point: x.
        rtol: Relative tolerance, below ½.
        eps: ε.
        max_iter: Most steps.
        strict: Whether to solve as precisely as the reference does.

    Raises:
        Ended: A product was not finite.

    Source: C. W. Royer, M. O'Neill, S. J. Wright 2020, 10.1007/s10107-019-01362-7, algorithm 1.
    """
    length = float(point.gradient.norm())
    norm, newton = 0.0, Direction(torch.zeros_like(point.gradient), damped=True)
    for state in islice(_iterates(point.hvp, point.gradient, eps), max_iter + 1):
        sums = state.sums
        if not math.isfinite(sum(sums.all)):
            raise Ended(Ending.NON_FINITE)
        norm = max(norm, sums.norm)
        newton = Direction(state.y, damped=True)
        if sums.along_y < eps * sums.yy:
            return flat(point, state.y, sums.along_y / sums.yy - 2 * eps)
        kappa = (norm + 2 * eps) / eps
        if math.sqrt(sums.rr) <= (rtol / (3 * kappa) if strict else rtol) * length:
            break
        if sums.along_p < eps * sums.pp:
            return flat(point, state.p, sums.along_p / sums.pp - 2 * eps)
        if math.sqrt(sums.rr) > _slowest(norm, eps, state.j) * length:
            return _difference(point, eps, state.j) or newton
    return newton


@dataclass(frozen=True)
class _Sums:
    """What decides a step: rᵀr, pᵀp, pᵀH p, yᵀy, yᵀH y; and the squares of ∇²f p, ∇²f y and ∇²f r."""

    rr: float
    pp: float
    along_p: float
    yy: float
    along_y: float
    hp: float
    hy: float
    hr: float

    @property
    def all(self) -> tuple[float, ...]:
        return self.rr, self.pp, self.along_p, self.yy, self.along_y, self.hp, self.hy, self.hr

    @property
    def norm(self) -> float:
        """The largest ‖∇²f v‖ / ‖v‖."""
        pairs = (self.hp, self.pp), (self.hy, self.yy), (self.hr, self.rr)
        return math.sqrt(max((square / of for square, of in pairs if of > 0), default=0.0))


@dataclass(frozen=True)
class _State:
    """Step j: the iterate, ∇²f times it, and the direction in which the next one lies."""

    j: int
    y: Tensor
    hy: Tensor
    p: Tensor
    sums: _Sums


def _iterates(hvp: Block, gradient: Tensor, eps: float) -> Iterator[_State]:
    """The steps of conjugate gradients on (∇²f + 2ε) y = −∇f, a product each; ∇²f y and ∇²f r follow."""
    y, hy, r, p = torch.zeros_like(gradient), torch.zeros_like(gradient), gradient, -gradient
    hp_before, beta = torch.zeros_like(gradient), 0.0
    for j in count():
        hp = hvp(p)
        hr = beta * hp_before - hp
        pairs = (
            (r, r),
            (p, p),
            (p, hp + 2 * eps * p),
            (y, y),
            (y, hy + 2 * eps * y),
            (hp, hp),
            (hy, hy),
            (hr, hr),
        )
        sums = _Sums(*torch.stack([(a * b).sum() for a, b in pairs]).tolist())
        yield _State(j, y, hy, p, sums)
        alpha = sums.rr / sums.along_p
        y, hy = y + alpha * p, hy + alpha * hp
        r = r + alpha * (hp + 2 * eps * p)
        beta = float((r * r).sum()) / sums.rr
        p, hp_before = beta * p - r, hp


def _slowest(norm: float, eps: float, j: int) -> float:
    """√T τ^(j/2), by which conjugate gradients lower the residual at least if H ≥ ε."""
    root = math.sqrt((norm + 2 * eps) / eps)
    tau = root / (root + 1)
    # 1 / (1 − √τ) without cancellation.
    factor = (root + 1) * (1 + math.sqrt(tau))
    return 2 * root**4 * factor * math.pow(tau, j / 2)


def _difference(point: Point, eps: float, j: int) -> Direction | None:
    """y_j+1 − y_i along which the curvature is below −ε; None if rounding hides it."""
    last = next(islice(_iterates(point.hvp, point.gradient, eps), j + 1, None))
    for state in islice(_iterates(point.hvp, point.gradient, eps), j + 1):
        d, hd = last.y - state.y, last.hy - state.hy
        dd, along = float((d * d).sum()), float((d * hd).sum())
        if along < -eps * dd:
            return flat(point, d, along / dd)
    return None
