"""The second-order check within bounds: curvature along the directions that do not leave the box."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hvplib.optim.box import Box
from hvplib.optim.certificate import Curvature, least_curvature
from hvplib.optim.evaluation import Point

__all__ = ["least_curvature_within"]

Random = Callable[[int], Tensor]


@dataclass(frozen=True)
class _Face:
    """∇²f restricted to some of the variables: what the search for curvature needs of a point.

    Attributes:
        point: Of all variables.
        indices: Which of them (m,).
    """

    point: Point
    indices: Tensor

    @property
    def x(self) -> Tensor:
        """(m,)."""
        return self.point.x[self.indices]

    @property
    def gradient(self) -> Tensor:
        """(m, 1)."""
        return self.point.gradient[self.indices]

    @property
    def eps(self) -> float:
        """The unit of rounding of f."""
        return self.point.eps

    def hvp(self, V: Tensor) -> Tensor:
        """The rows and columns of ∇²f that belong to the variables, times V (m, k)."""
        return self.point.hvp(self.whole(V))[self.indices]

    def whole(self, V: Tensor) -> Tensor:
        """V with zeros for the other variables: the `.mT` of a contiguous (k, n)."""
        rows = V.new_zeros(V.shape[1], self.point.x.shape[0])
        rows[:, self.indices] = V.mT
        return rows.mT


def least_curvature_within(
    point: Point, random: Random, *, box: Box, gtol: float, max_matvecs: int, probability: float
) -> Curvature:
    """min dᵀ∇²f d / dᵀd over the critical directions d of a stationary point within bounds.

    A variable whose gradient is above gtol is held at its bound, and has no part in d. One with a
    gradient of at most gtol that is on a bound, or within √eps max(1, |x_i|) of it, may only move inwards.
    Without such variables this is λ_min of the block of the others. With them, that is a lower bound, and
    where it is negative, upper bounds come from its eigenvector ± d with what leaves the box taken out, and
    from λ_min of the variables between their bounds: two products more, and as many as for a search.

    Args:
        point: Stationary to within gtol.
        random: k ↦ a block (n, k) of independent normal numbers.
        box: The bounds.
        gtol: A smaller gradient counts as zero.
        max_matvecs: Products of one search.
        probability: How likely the lower bound may be false.

    Returns:
        The curvature, with a direction that stays in the box if it is negative. +∞ where no variable is free.
    """
    free = (point.gradient[:, 0].abs() <= gtol) & (box.lower < box.upper)
    below, above = _edges(box, point)
    edges = free & (below | above)
    search = _Search(point, random, max_matvecs, probability)
    found = search.over(free)
    if not found.negative or not bool(edges.any()):
        return found
    clipped = search.clipped(found, below, above)
    inner = search.over(free & ~edges)
    least = min(clipped, inner, key=lambda curvature: curvature.value)
    spent = found.num_matvecs + clipped.num_matvecs + inner.num_matvecs
    return replace(least, bound=found.bound, norm=max(found.norm, inner.norm), num_matvecs=spent)


def _edges(box: Box, point: Point) -> tuple[Tensor, Tensor]:
    """Which variables lie on their lower and upper bounds, or so near that no step has room: masks (n,).

    A direction of negative curvature that is cut sooner than after √eps max(1, |x|) may not show in f.
    """
    room = math.sqrt(point.eps) * point.x.abs().clamp(min=1.0)
    return point.x - box.lower <= room, box.upper - point.x <= room


@dataclass(frozen=True)
class _Search:
    """Curvature of one point over some of its variables."""

    point: Point
    random: Random
    max_matvecs: int
    probability: float

    def over(self, variables: Tensor) -> Curvature:
        """Over the variables of a mask (n,)."""
        indices = variables.nonzero()[:, 0]
        if not len(indices):
            nothing = torch.zeros_like(self.point.gradient)
            return Curvature(math.inf, math.inf, nothing, 0.0, self.point.eps, 0.0, 0)
        face = _Face(self.point, indices)
        found = least_curvature(
            face,
            lambda count: self.random(count)[indices],
            max_matvecs=self.max_matvecs,
            probability=self.probability,
        )
        flat = None if found.flat is None else face.whole(found.flat)
        return replace(found, direction=face.whole(found.direction), flat=flat)

    def clipped(self, found: Curvature, below: Tensor, above: Tensor) -> Curvature:
        """The lower curvature of d and −d, each with what leaves the box at once taken out.

        `below` and `above` are masks (n,) of what may not fall, and not rise.
        """
        d = found.direction
        both = torch.cat([d.mT, -d.mT]).mT
        leaving = (below.unsqueeze(1) & (both < 0)) | (above.unsqueeze(1) & (both > 0))
        feasible = torch.where(leaving, 0.0, both)
        lengths = feasible.norm(dim=0)
        feasible = feasible / lengths.clamp(min=torch.finfo(d.dtype).tiny)
        curvatures = (feasible * self.point.hvp(feasible)).sum(0)
        # A direction of which nothing is left has no curvature at all.
        values = torch.where(lengths > 0, curvatures, torch.inf).tolist()
        best = int(values[1] < values[0])
        return replace(found, value=values[best], direction=feasible[:, best : best + 1], num_matvecs=2)
