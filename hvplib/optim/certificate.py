"""The second-order check: whether a stationary point is a minimum, and by which right that is said."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from hvplib.eigen.missed import resolution_of
from hvplib.eigen.start import Start
from hvplib.krylov.lanczos import Factorization
from hvplib.optim.whole_hessian import whole_hessian

__all__ = ["Curvature", "Curved", "least_curvature", "rounding_of"]

# Up to this size the whole matrix is computed, and nothing in it can be missed.
_SMALL = 64
# Share of ‖∇²f‖ within which an eigenvalue cannot be told from zero: second derivatives lose more digits
# than products of a matrix.
_ROUNDINGS = 100.0
# Directions that are probed beside the eigenvector, where curvature is zero along several.
_MIXTURES = 2


class Curved(Protocol):
    """What has curvature: a point, or a point with some of its variables held.

    Attributes:
        x: The variables (n,).
        gradient: With respect to them (n, 1).
        eps: The unit of rounding of f.
    """

    @property
    def x(self) -> Tensor: ...
    @property
    def gradient(self) -> Tensor: ...
    @property
    def eps(self) -> float: ...

    def hvp(self, V: Tensor) -> Tensor:
        """∇²f V for a block (n, k)."""
        ...


@dataclass(frozen=True)
class Curvature:
    """The least eigenvalue of ∇²f at a point, as far as it is known.

    Attributes:
        value: The least Ritz value θ: λ_min ≤ θ. NaN where a product was not finite.
        bound: λ_min ≥ this, rounding included, but for `miss_probability`.
        direction: The Ritz vector (n, 1), of length one; a column of zeros if nothing is known.
        norm: ‖∇²f‖, from below.
        eps: The unit of rounding of f, which may be larger than that of the vectors.
        miss_probability: Probability that `bound` is false, over the random start; 0 for the whole matrix.
        num_matvecs: Products spent.
        flat: Where curvature is zero along more than `direction`: random directions (n, k) of all these. None
            where no others are known.
    """

    value: float
    bound: float
    direction: Tensor
    norm: float
    eps: float
    miss_probability: float
    num_matvecs: int
    flat: Tensor | None = None

    @property
    def negative(self) -> bool:
        """Whether θ is negative beyond rounding, which proves a direction of negative curvature."""
        return self.value < -self.rounding

    @property
    def positive(self) -> bool:
        """Whether all of the spectrum is positive beyond rounding, but for `miss_probability`."""
        return self.bound > 0

    @property
    def rounding(self) -> float:
        """What is zero beside ‖∇²f‖."""
        return rounding_of(self.norm, self.eps)


def rounding_of(norm: float, eps: float) -> float:
    """What cannot be told from zero among the eigenvalues of a Hessian of this norm."""
    return _ROUNDINGS * eps * norm


def least_curvature(
    point: Curved, random: Callable[[int], Tensor], *, max_matvecs: int, probability: float
) -> Curvature:
    """λ_min(∇²f) at a point: min(n, `max_matvecs`) products at most.

    Of a matrix of up to 64 rows all eigenvalues are computed. Of a larger one, Lanczos from one random start
    is ended early when the least Ritz value is negative and has settled, or when the bound is positive.

    Args:
        point: Where.
        random: k ↦ a block (n, k) of independent normal numbers.
        max_matvecs: Products.
        probability: How likely `bound` may be false.

    The bound for a random start is that of `hvplib.eigen.missed.End`.
    """
    n = point.x.shape[0]
    if n <= min(_SMALL, max_matvecs):
        return _whole(point, random)
    start = random(1)
    factorization = Factorization(start, capacity=min(n, max_matvecs), size=n)
    run = Start(factorization, [-1])
    found = Curvature(math.inf, -math.inf, torch.zeros_like(start), 0.0, point.eps, probability, 0)
    for step in range(1, min(n, max_matvecs) + 1):
        if not factorization.expand(point.hvp, random):
            return replace(found, value=math.nan, bound=-math.inf, norm=math.nan)
        if step % _LOOKS == 0 or step == min(n, max_matvecs) or factorization.width == 0:
            found, settled = _seen(factorization, run, step, probability, point.eps)
            if settled:
                break
    return found


# The small eigenproblem is solved every so many steps.
_LOOKS = 5


def _whole(point: Curved, random: Callable[[int], Tensor]) -> Curvature:
    n, eps = point.x.shape[0], point.eps
    H = whole_hessian(point.hvp, point.x)
    if not bool(torch.isfinite(H).all()):
        return Curvature(math.nan, -math.inf, torch.zeros_like(point.gradient), math.nan, eps, 0.0, n)
    values, vectors = torch.linalg.eigh(H)
    least = float(values[0])
    norm = float(values.abs().max())
    rounding = rounding_of(norm, eps)
    flat = vectors[:, values <= rounding].to(point.gradient) if abs(least) <= rounding else None
    if flat is not None:
        flat = _mixed(flat, random) if flat.shape[1] > 1 else None
    direction = vectors[:, :1].to(point.gradient)
    return Curvature(least, least - rounding, direction, norm, eps, 0.0, n, flat)


def _mixed(basis: Tensor, random: Callable[[int], Tensor]) -> Tensor:
    """Random directions (n, k) in the space of a basis, along which less vanishes than along its axes."""
    mixed = basis @ (basis.mT @ random(_MIXTURES))
    normalised: Tensor = mixed / torch.linalg.vector_norm(mixed, dim=0)
    return normalised


def _seen(
    factorization: Factorization, run: Start, steps: int, probability: float, eps: float
) -> tuple[Curvature, bool]:
    """What the Krylov space says, and whether more products would say nothing that matters."""
    ritz = factorization.ritz()
    value, residual = float(ritz.values[0]), float(ritz.residual_norms[0])
    whole = factorization.width == 0
    if whole:
        resolution, missed = residual, 0.0
    else:
        (end,) = run.seen(ritz.values, ritz.residual_norms)
        resolution = resolution_of([end], [end.value], probability, scale=4 * factorization.norm)
        missed = probability
    direction = factorization.combine(ritz.vectors[:, :1])
    norm = factorization.norm
    bound = value - resolution - rounding_of(norm, eps)
    curvature = Curvature(value, bound, direction, norm, eps, missed, steps)
    settled = curvature.negative and residual <= 0.1 * abs(value)
    return curvature, whole or settled or curvature.positive
