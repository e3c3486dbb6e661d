"""Second differences of a function along a line: what says something of a curvature without derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from hvplib.ad.report import Check

__all__ = ["compare_curvature", "midpoint_violated"]

# Relative steps, coarse to fine: second differences lose twice as many digits as first ones.
_STEPS = {
    torch.float64: (3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 2e-4, 3e-5),
    torch.float32: (1.0, 3e-1, 1e-1, 3e-2, 1e-2),
    torch.float16: (1.0, 3e-1),
    torch.bfloat16: (1.0, 3e-1),
}
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 2e-2, torch.float16: 2e-1, torch.bfloat16: 2e-1}
_NAME = "curvature against differences of the loss"
# Differences at two steps that agree so well with a negative curvature are no rounding.
_CONVICTION = 0.3


@dataclass(frozen=True)
class _Second:
    """φ''(0) from five values: by fourth and by second order, how they differ, and what rounding does."""

    estimate: float
    plain: float
    truncation: float
    rounding: float

    @property
    def error(self) -> float:
        """Of the estimate: the truncation of second order, times about the same relative factor again."""
        share = min(1.0, self.truncation / abs(self.estimate)) if self.estimate else 1.0
        return self.truncation * share + self.rounding


def compare_curvature(
    value: Callable[[float], float], curvature: float, unit: float, precision: torch.dtype
) -> Check:
    """Hold φ''(0) against differences of φ with finer and finer steps, as `compare` does with products.

    Args:
        value: φ.
        curvature: What φ''(0) is to be.
        unit: The step that moves the point by as much as its entries are large.
        precision: The coarsest dtype that φ computes in.
    """
    tolerance = _TOLERANCE[precision]
    best = math.inf
    previous: _Second | None = None
    for current in _differences(value, unit, precision):
        off = abs(current.estimate - curvature)
        scale = max(abs(curvature), abs(current.estimate))
        relative = off / scale if scale > 0 else 0.0
        meaningful = current.error <= 0.1 * scale or scale == 0
        if meaningful and off <= tolerance * scale + 3 * current.error:
            return Check(_NAME, relative, tolerance, True)
        if previous is not None and _contradict(previous, current, off):
            return Check(_NAME, relative, tolerance, False, "two steps agree with each other")
        best = min(best, relative) if math.isfinite(relative) else best
        previous = current
    return Check(_NAME, best, tolerance, None, "rounding, or kinks, hide it")


def midpoint_violated(
    value: Callable[[float], float], curvature: float, unit: float, precision: torch.dtype
) -> bool:
    """Whether differences at two steps bear out a negative φ''(0): then φ is not convex.

    A convex φ has φ(t) + φ(−t) ≥ 2 φ(0) for every t; rounding breaks this by chance, but not by the same
    negative quotient at two steps.
    """
    close = [
        second
        for second in _differences(value, unit, precision)
        if abs(second.plain - curvature) <= _CONVICTION * abs(curvature)
    ]
    return len(close) >= 2


def _differences(value: Callable[[float], float], unit: float, precision: torch.dtype) -> Iterator[_Second]:
    here = value(0.0)
    eps = torch.finfo(precision).eps
    for relative in _STEPS[precision]:
        t = relative * unit
        near_up, near_down, far_up, far_down = (value(k * t) for k in (1, -1, 2, -2))
        near = (near_up - 2 * here + near_down) / t**2
        far = (far_up - 2 * here + far_down) / (4 * t**2)
        estimate = (4 * near - far) / 3
        if not math.isfinite(estimate):
            continue
        size = max(abs(near_up), abs(near_down), abs(here))
        yield _Second(estimate, near, abs(estimate - near), 16 * eps * size / t**2)


def _contradict(coarse: _Second, fine: _Second, off: float) -> bool:
    """Whether two differences agree, as those of a smooth function, and speak against what is `off`."""
    smooth = fine.truncation <= 0.2 * coarse.truncation + 3 * fine.rounding
    return smooth and abs(coarse.estimate - fine.estimate) + 3 * fine.error <= 0.1 * off
