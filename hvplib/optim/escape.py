"""Leaving a stationary point that is no minimum, along a direction in which the function falls."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from hvplib.optim.certificate import Curvature
from hvplib.optim.decrease import decrease, noise
from hvplib.optim.evaluation import Objective, Point

__all__ = ["curvature_persists", "fall", "probe"]

# Share of the decrease that the quadratic model promises with which a point is taken.
_SUFFICIENT = 0.1
# Steps tried, relative to max(1, ‖x‖); each a quarter of the one before.
_LENGTHS = 16
# Where curvature says nothing, these are tried.
_PROBES = (1e-3, 1e-2, 1e-1)


def fall(objective: Objective, point: Point, curvature: Curvature) -> tuple[Point, float] | None:
    """x ± t d with f lower by at least a tenth of ½ |θ| t², for a d of negative curvature θ; and t.

    Where a bound is met on the way, t d is what is left of it.

    Args:
        objective: Makes the points; spends two for each length at most.
        point: x.
        curvature: d and θ.

    Returns:
        None where there is no such t: the first is max(1, ‖x‖), each next a quarter of it.
    """
    length = _size(point.x)
    for _ in range(_LENGTHS):
        for step in _both_ways(objective, point, curvature.direction, length):
            trial = objective.moved(point, step)
            predicted = -curvature.value * float(step.square().sum()) / 2
            if decrease(point, trial, step) >= _SUFFICIENT * predicted > 0:
                return trial, length
        length /= 4
    return None


def probe(objective: Objective, point: Point, curvature: Curvature) -> tuple[Point, float] | None:
    """x ± t d with f lower by more than its slope along d explains, where curvature along d is about zero.

    Third derivatives show this way: of x³ at 0, or of a monkey saddle. Spends six points at most.
    """
    for share in _PROBES:
        length = share * _size(point.x)
        for step in _both_ways(objective, point, curvature.direction, length):
            trial = objective.moved(point, step)
            slope = abs(float((point.gradient * step).sum()))
            hidden = 2 * slope + noise(point, trial) if trial.finite else math.inf
            if decrease(point, trial, step) > hidden:
                return trial, length
    return None


def curvature_persists(objective: Objective, point: Point, curvature: Curvature) -> bool:
    """Whether curvature along d at x ± r d, r = 2 ‖∇f‖ / θ, is that at x to within θ/2.

    If ∇²f ≥ θ/2 in a ball of radius r around x, there is a minimum in it, and only one. Where curvature
    changes by more than half of itself that near, as that of x³ or x⁴ does near zero, x may be on the way to
    a degenerate point. Spends two points and two products.

    Source: the idea of L. V. Kantorovich's theorem on Newton's method (1948), along one direction.
    """
    radius = 2 * float(point.stationarity.norm()) / curvature.value
    if radius <= point.eps * float(point.x.norm()):
        return True
    for step in _both_ways(objective, point, curvature.direction, radius):
        trial = objective.moved(point, step)
        d = curvature.direction
        if not abs(float((d * trial.hvp(d)).sum()) - curvature.value) <= curvature.value / 2:
            return False
    return True


def _both_ways(objective: Objective, point: Point, direction: Tensor, length: float) -> Iterator[Tensor]:
    """± length d, downhill first, as far as the bounds allow."""
    downhill = -1.0 if float((point.gradient * direction).sum()) > 0 else 1.0
    yield objective.step(point, downhill * length * direction)
    yield objective.step(point, -downhill * length * direction)


def _size(x: Tensor) -> float:
    return max(1.0, float(torch.linalg.vector_norm(x)))
