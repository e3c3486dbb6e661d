"""The axis of a density: eigenvalues, or the logarithms of those that are positive."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Axis"]

# κ of Lin, Saad and Yang (2016), section 4: with this width Gaussians on m even nodes still join.
_KAPPA = 1.25
_BEYOND = 3.0  # widths that the grid goes beyond the nodes
_AROUND = 9  # points around each outlier


class Axis:
    """t = λ, or t = log10 λ.

    Args:
        scale: Which of them.
        least: What is not larger counts as not positive: with scale "log" it is at t = −∞.
    """

    def __init__(self, scale: Literal["linear", "log"], least: float) -> None:
        self._log, self._least = scale == "log", least

    def of(self, x: Tensor) -> Tensor:
        """t of eigenvalues."""
        if not self._log:
            return x
        return torch.where(x > self._least, x, 0.0).log10()

    def back(self, t: Tensor) -> Tensor:
        """Eigenvalues of t."""
        return 10**t if self._log else t

    def width(self, nodes: Tensor, steps: int) -> float:
        """The least that so many steps resolve: (t_max − t_min) / ((m − 1) √(8 log κ))."""
        seen = nodes[nodes.isfinite()]
        span = float(seen.max() - seen.min()) if len(seen) else 0.0
        if span == 0:  # one eigenvalue: any width shows it
            span = 0.01 * (float(seen.abs().max()) or 1.0) if len(seen) else 1.0
        return span / (max(steps - 1, 1) * math.sqrt(8 * math.log(_KAPPA)))

    def grid(self, grid: int | Tensor, nodes: Tensor, outliers: Tensor, width: float) -> Tensor:
        """t of the points asked for (g,).

        Raises:
            ValueError: They are not ascending numbers, or not positive where they have to be.
        """
        if isinstance(grid, int) and not isinstance(grid, bool):
            return self._even(grid, nodes, outliers, width)
        points = torch.as_tensor(grid).detach().to("cpu", torch.float64)
        ascending = points.dim() == 1 and len(points) > 0 and bool((points.diff() > 0).all())
        if not ascending or not bool(points.isfinite().all()):
            raise ValueError("grid must be a number of points, or finite points (g,) in ascending order")
        if self._log and not float(points[0]) > self._least:
            raise ValueError(
                f'grid must lie above {self._least:.3g} with scale="log", below which an eigenvalue may be '
                f"zero, got {float(points[0]):.6g}"
            )
        return self.of(points)

    def left_out(self, parts: list[tuple[Tensor, Tensor]]) -> float:
        """The mass at t = −∞."""
        if not self._log:
            return 0.0
        return sum(float(weights[nodes <= self._least].sum()) for nodes, weights in parts)

    def _even(self, count: int, nodes: Tensor, outliers: Tensor, width: float) -> Tensor:
        if count < 2:
            raise ValueError(f"grid must have at least 2 points, got {count}")
        seen = nodes[nodes.isfinite()]
        if not len(seen):
            raise ValueError(
                'scale="log" shows positive eigenvalues, but none was met; use scale="linear", or -A'
            )
        low, high = float(seen.min()) - _BEYOND * width, float(seen.max()) + _BEYOND * width
        if self._log:
            low = max(low, math.log10(self._least) if self._least > 0 else low)
        even = torch.linspace(low, high, count, dtype=torch.float64)
        around = torch.linspace(-_BEYOND * width, _BEYOND * width, _AROUND, dtype=torch.float64)
        extra = (outliers[outliers.isfinite()].unsqueeze(1) + around).reshape(-1)
        points = torch.cat([even, extra]).sort().values
        return points[torch.cat([points.new_ones(1), points.diff()]) > 0]
