"""Leaving a stationary point that is no minimum, along a direction in which the function falls."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

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

    Where a bound is met on the way, t ends there: what is left of d behind it may have no such curvature.

    Args:
        objective: Makes the points; spends two for each length at most.
        point: x.
        curvature: d and θ.

    Returns:
        None where there is no such t: the first is max(1, ‖x‖), each next a quarter of it.
    """
    length = _size(point.x)
    ways = [_Way(d, objective.room(point, d)) for d in _downhill_first(point, curvature.direction)]
    for _ in range(_LENGTHS):
        for way in ways:
            t = way.next(length)
            if t is None:
                continue
            step = t * way.direction
            trial = objective.moved(point, step)
            predicted = -curvature.value * t**2 / 2
            if decrease(point, trial, step) >= _SUFFICIENT * predicted > 0:
                return trial, t
        length /= 4
    return None


def probe(objective: Objective, point: Point, curvature: Curvature) -> tuple[Point, float] | None:
    """x ± t d with f lower by more than slope and curvature θ along d explain, where θ is about zero.

    Third derivatives show this way: of x³ at 0, or of a monkey saddle. Where curvature is about zero along
    several directions, so do those of x y z, which vanish along the axes: random mixtures of them are probed
    too. Spends six points at most for each direction.
    """
    directions = [curvature.direction]
    if curvature.flat is not None:
        directions += [column.unsqueeze(1) for column in curvature.flat.mT]
    for direction in directions:
        for share in _PROBES:
            length = share * _size(point.x)
            for step in _both_ways(objective, point, direction, length):
                trial = objective.moved(point, step)
                slope = abs(float((point.gradient * step).sum()))
                explained = 2 * slope + max(-curvature.value, 0.0) * float(step.square().sum())
                hidden = explained + noise(point, trial) if trial.finite else math.inf
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


@dataclass
class _Way:
    """A direction of length one, and how far the bounds let x go along it."""

    direction: Tensor
    room: float
    _been_there: bool = False

    def next(self, length: float) -> float | None:
        """The length, or once the room if that is less; None where there is nothing new to try."""
        if length < self.room:
            return length
        if self._been_there or not self.room > 0:
            return None
        self._been_there = True
        return self.room


def _both_ways(objective: Objective, point: Point, direction: Tensor, length: float) -> Iterator[Tensor]:
    """± length d, downhill first, as much of it as the bounds allow."""
    for d in _downhill_first(point, direction):
        yield objective.step(point, length * d)


def _downhill_first(point: Point, direction: Tensor) -> tuple[Tensor, Tensor]:
    downhill = -1.0 if float((point.gradient * direction).sum()) > 0 else 1.0
    return downhill * direction, -downhill * direction


def _size(x: Tensor) -> float:
    return max(1.0, float(torch.linalg.vector_norm(x)))
