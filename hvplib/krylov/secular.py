"""Quadratic functions in a ball, or with a cubic term, where the matrix is diagonal: exact to rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import hypot
from operator import sub

import torch
from torch import Tensor

__all__ = ["Minimiser", "ball_step", "cubic_step"]

_EPS = torch.finfo(torch.float64).eps
# Coefficients below this share of the problem are taken for zero: their quotients would have few digits.
_NOTHING = 1e-280
# Newton's method grows from the left, at first faster than by doubling, and then doubles its digits.
_MAX_ITER = 200


@dataclass(frozen=True)
class Minimiser:
    """Where the minimum lies: (λ_i + μ) y_i = −c_i with λ_i + μ ≥ 0 for all i.

    Attributes:
        coordinates: y (m,), float64, on the CPU.
        norm: ‖y‖.
        multiplier: μ ≥ 0.
        predicted: How much the function falls from y = 0 to the minimum.
        on_boundary: Whether the minimum of a ball lies on its boundary; False of a cubic term.
    """

    coordinates: Tensor
    norm: float
    multiplier: float
    predicted: float
    on_boundary: bool


def ball_step(eigenvalues: Tensor, coefficients: Tensor, radius: float) -> Minimiser:
    """min Σ c_i y_i + ½ Σ λ_i y_i² subject to ‖y‖ ≤ Δ, globally.

    In general y lies on the boundary, and μ is the root of 1/‖y(μ)‖ = 1/Δ with y_i(μ) = −c_i / (λ_i + μ),
    right of −λ_min. In the hard case, where c has no part in the leftmost eigenspace and ‖y(−λ_min)‖ < Δ,
    there is no such root; then a unit vector of that eigenspace is added so far that ‖y‖ = Δ.

    The unknown is the distance of μ from its least value max(0, −λ_min), so that nothing cancels near the
    hard case. Newton's method on the concave equation comes from the left, and ends when it no longer grows.

    Args:
        eigenvalues: λ (m,), in any order.
        coefficients: c (m,).
        radius: Δ, positive and finite.

    Returns:
        The `Minimiser`. Where two are equally good, that with a positive sign of what was added.

    Raises:
        ValueError: The radius is not positive and finite, or the shapes are not both (m,) with m ≥ 1.

    References:
        J. J. Moré, D. C. Sorensen (1983), Computing a trust region step, doi:10.1137/0904038.

    Example:
        >>> import torch
        >>> step = ball_step(torch.tensor([-1.0, 2.0]), torch.tensor([0.0, 3.0]), 2.0)
        >>> step.coordinates, step.multiplier
        (tensor([ 1.7321, -1.0000], dtype=torch.float64), 1.0)
    """
    _check("radius", radius, eigenvalues, coefficients)
    problem = _Shifted(eigenvalues, coefficients)
    stiffness = max(problem.largest, problem.total / radius)
    if stiffness == 0:
        return problem.at(0.0, 0.0, on_boundary=False, cubic=False)
    size = _without_nothing([s / stiffness / radius for s in problem.size])
    delta = [d / stiffness for d in problem.delta]
    lower = max(*map(sub, size, delta), hypot(*size) - max(delta))
    t, gap = _solve(size, delta, max(lower, 0.0), (1.0, 0.0))
    on_boundary = t > 0 or problem.floor > 0
    added = gap * radius if problem.floor > 0 else 0.0
    return problem.at(t * stiffness, added, on_boundary=on_boundary, cubic=False, length=radius)


def cubic_step(eigenvalues: Tensor, coefficients: Tensor, sigma: float) -> Minimiser:
    """min Σ c_i y_i + ½ Σ λ_i y_i² + (σ/3) ‖y‖³, globally.

    At the minimum μ = σ ‖y‖, and μ is the root of 1/‖y(μ)‖ = σ/μ with y_i(μ) = −c_i / (λ_i + μ), right of
    −λ_min; or μ = −λ_min in the hard case, as in `ball_step`. This equation is concave too.

    Args:
        eigenvalues: λ (m,), in any order.
        coefficients: c (m,).
        sigma: σ, positive and finite.

    Returns:
        The `Minimiser`; the function that falls by `predicted` has its cubic term.

    Raises:
        ValueError: σ is not positive and finite, or the shapes are not both (m,) with m ≥ 1.

    References:
        C. Cartis, N. I. M. Gould, Ph. L. Toint (2011), Adaptive cubic regularisation methods for
        unconstrained optimization, part I, doi:10.1007/s10107-009-0286-5, section 6.1.

    Example:
        >>> import torch
        >>> step = cubic_step(torch.tensor([-1.0, 1.0]), torch.zeros(2), 0.5)
        >>> step.coordinates, step.predicted
        (tensor([2., -0.], dtype=torch.float64), 0.666...)
    """
    _check("sigma", sigma, eigenvalues, coefficients)
    problem = _Shifted(eigenvalues, coefficients)
    stiffness = max(problem.largest, math.sqrt(sigma) * math.sqrt(problem.total))
    if stiffness == 0:
        return problem.at(0.0, 0.0, on_boundary=False, cubic=True)
    # In units of length stiffness / σ the equation is ‖y‖ = μ.
    size = _without_nothing([s / stiffness * (sigma / stiffness) for s in problem.size])
    delta, floor = [d / stiffness for d in problem.delta], problem.floor / stiffness
    lower = max(
        _least_cubic(s, d, floor) for s, d in [*zip(size, delta, strict=True), (hypot(*size), max(delta))]
    )
    t, gap = _solve(size, delta, lower, (floor, 1.0))
    return problem.at(t * stiffness, gap * (stiffness / sigma), on_boundary=False, cubic=True)


class _Shifted:
    """λ_i = δ_i − floor with δ_i ≥ 0 and the least floor ≥ 0, so that μ = floor + t with t ≥ 0.

    Attributes:
        delta: δ (m,).
        floor: max(0, −λ_min).
        size: |c| (m,).
        total: ‖c‖.
        largest: max |λ|.
    """

    def __init__(self, eigenvalues: Tensor, coefficients: Tensor) -> None:
        # As numbers of Python: for as few as there mostly are, a call of torch takes longer than the sum.
        values: list[float] = eigenvalues.to("cpu", torch.float64).tolist()
        self._coefficients: list[float] = coefficients.to("cpu", torch.float64).tolist()
        least = min(values)
        self._leftmost = values.index(least)
        self.floor = max(0.0, -least)
        self.delta = [value + self.floor for value in values]
        self.size = [abs(c) for c in self._coefficients]
        self.total = hypot(*self.size)
        self.largest = max(abs(least), abs(max(values)))

    def at(
        self, t: float, added: float, *, on_boundary: bool, cubic: bool, length: float | None = None
    ) -> Minimiser:
        """The minimiser for μ = floor + t, moved by `added` in the leftmost eigenspace."""
        shifted = [d + t for d in self.delta]
        y = [-c / s if s > 0 else 0.0 for c, s in zip(self._coefficients, shifted, strict=True)]
        leftmost = self._coefficients[self._leftmost]
        if added > 0:
            y[self._leftmost] = -math.copysign(added, leftmost)
        if leftmost == 0:
            y[self._leftmost] = added
        multiplier = self.floor + t
        norm = length if on_boundary and length is not None else hypot(*y)
        # Of −(cᵀy + ½ Σ λ y²), with c replaced by the equation: only positive terms.
        elastic = sum(s * v * v for s, v in zip(shifted, y, strict=True)) / 2
        predicted = elastic + multiplier * norm * norm / (6 if cubic else 2)
        return Minimiser(torch.tensor(y, dtype=torch.float64), norm, multiplier, predicted, on_boundary)


def _solve(
    size: list[float], delta: list[float], lower: float, line: tuple[float, float]
) -> tuple[float, float]:
    """The least t ≥ 0 with ‖z(t)‖ ≤ ℓ(t), z_i = size_i / (δ_i + t), and the gap √(ℓ² − ‖z‖²) left at t = 0.

    Args:
        size: Not negative.
        delta: Not negative.
        lower: Where ‖z‖ ≥ ℓ, if it is positive; zero otherwise.
        line: ℓ(0) and ℓ'.
    """
    some = [(s, d) for s, d in zip(size, delta, strict=True) if s > 0]
    if lower > 0:
        return _root(some, lower, line), 0.0
    start, length = hypot(*(s / d for s, d in some)), line[0]  # size ≤ delta, so delta is positive
    if start > length:
        return _root(some, 0.0, line), 0.0
    return 0.0, math.sqrt((length - start) * (length + start))


def _root(some: list[tuple[float, float]], start: float, line: tuple[float, float]) -> float:
    """t with 1/‖z(t)‖ = 1/ℓ(t): the difference is concave and grows, so that Newton comes from the left."""
    t = start
    for _ in range(_MAX_ITER):
        length = hypot(*[s / (d + t) for s, d in some])
        ratio = length / (line[0] + line[1] * t)
        # The value over its derivative, both times ‖z‖²: what is left neither over- nor underflows.
        rise = 0.0
        for s, d in some:
            unit = s / (d + t) / length
            rise += unit * unit / (d + t)
        following = t + length * (ratio - 1) / (rise * length + line[1] * ratio * ratio)
        if not following > t * (1 + 2 * _EPS):
            # Rounding may have put the start right of the root, but not far.
            return following if following > 0.5 * t else t
        t = following
    return t


def _least_cubic(size: float, delta: float, floor: float) -> float:
    """t with (t + floor)(t + δ) = size, a bound from below as ‖z‖ ≥ |z_i|; 0 if there is none."""
    product = floor * delta
    excess = size - product - 4 * _EPS * product
    if not excess > 0:
        return 0.0
    b = floor + delta
    return 2 * excess / (b + hypot(b, 2 * math.sqrt(excess)))


def _without_nothing(size: list[float]) -> list[float]:
    return [0.0 if s < _NOTHING else s for s in size]


def _check(name: str, value: float, eigenvalues: Tensor, coefficients: Tensor) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
    if eigenvalues.dim() != 1 or eigenvalues.shape != coefficients.shape or not eigenvalues.numel():
        raise ValueError(
            "eigenvalues and coefficients must both be (m,) with m ≥ 1, got "
            f"{tuple(eigenvalues.shape)} and {tuple(coefficients.shape)}"
        )
