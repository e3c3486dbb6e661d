"""A box l ≤ x ≤ u: projections onto it, what of a gradient is left in it, and which bounds are active."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Box"]


@dataclass(frozen=True)
class Box:
    """{x : l ≤ x ≤ u}, with −∞ and ∞ where there is no bound.

    Attributes:
        lower: l (n,).
        upper: u (n,), nowhere below l.
    """

    lower: Tensor
    upper: Tensor

    def project(self, x: Tensor) -> Tensor:
        """P(x), the nearest point (n,) of the box; NaN stays."""
        return torch.clamp(x, self.lower, self.upper)

    def step(self, x: Tensor, step: Tensor) -> Tensor:
        """P(x + s) − x for a point x (n,) of the box and a block s (n, k), without cancellation."""
        return torch.clamp(step, (self.lower - x).unsqueeze(1), (self.upper - x).unsqueeze(1))

    def room(self, x: Tensor, d: Tensor) -> float:
        """The largest t for which x + t d is in the box, for a point x of it and d (n, 1)."""
        way = d[:, 0]
        left = torch.where(way > 0, self.upper - x, x - self.lower)
        return float(torch.where(way != 0, left / way.abs(), torch.inf).min())

    def moved(self, x: Tensor, step: Tensor) -> Tensor:
        """P(x + s) (n,) for s (n, 1), exactly on the bounds that `step` reaches."""
        s = step[:, 0]
        inside = torch.where(
            s >= self.upper - x, self.upper, torch.where(s <= self.lower - x, self.lower, x + s)
        )
        return self.project(inside)

    def stationarity(self, x: Tensor, gradient: Tensor) -> Tensor:
        """x − P(x − ∇f) (n, 1): zero where no feasible direction goes downhill. ±∞ and NaN stay."""
        left = -self.step(x, -gradient)
        return torch.where(gradient.isfinite(), left, gradient)

    def active(self, x: Tensor) -> Tensor:
        """−1 where x_i = l_i, else 1 where x_i = u_i, else 0: int64 (n,)."""
        at_upper = (x == self.upper).to(torch.int64)
        return torch.where(x == self.lower, -1, at_upper)

    def free(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Which variables are not held at a bound by −∇f (n, 1), a mask (n,)."""
        g = gradient[:, 0]
        held = ((x <= self.lower) & (g >= 0)) | ((x >= self.upper) & (g <= 0))
        return ~held & (self.lower < self.upper)

    def interior(self, x: Tensor) -> Tensor:
        """Which variables lie strictly between their bounds, a mask (n,)."""
        return (x > self.lower) & (x < self.upper)
