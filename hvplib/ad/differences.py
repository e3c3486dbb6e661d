"""Differences of gradients: the judge that shares no second-derivative code with what it judges."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hvplib.ad.report import Check
from hvplib.ad.strategies import gradient
from hvplib.ad.vectors import all_finite, coarsest, distance, dot, entry_size, moved, norm

__all__ = ["Difference", "compare", "compare_slope", "compare_value", "difference", "ladder"]

Evaluate = Callable[[Sequence[Tensor]], Tensor]

# Relative steps, coarse to fine. Smooth functions are settled by the first; a kink nearby needs the finer
# ones, until rounding (eps / step) takes over.
_STEPS = {
    torch.float64: (3e-3, 2e-4, 1e-5, 5e-7),
    torch.float32: (5e-2, 1e-2, 2e-3),
    torch.float16: (3e-1, 1e-1),
    torch.bfloat16: (3e-1, 1e-1),
}
_NAME = "difference of gradients"
# What a right product and a difference may differ by, beside the error bar of the difference.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}
_VALUE_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-2, torch.float16: 1e-1, torch.bfloat16: 2e-1}


@dataclass(frozen=True)
class Difference:
    """A 4th-order central difference of gradients along a direction, with its own error bar.

    Attributes:
        product: (8 (g₊₁ - g₋₁) - (g₊₂ - g₋₂)) / 12h, one tensor per primal.
        truncation: Norm of what the extrapolation changed: the error of the second-order difference, which
            falls as h² where the function is smooth.
        rounding: Norm of the error that rounding in the gradients makes.
        error: Estimate of the absolute error of `product` in the Euclidean norm, of both kinds.
        step: The h used, in units of the tangents.
    """

    product: list[Tensor]
    truncation: float
    rounding: float
    error: float
    step: float


def ladder(primals: Sequence[Tensor], tangents: Sequence[Tensor], precision: torch.dtype) -> Iterator[float]:
    """Steps h, from coarse to fine, for which h·tangents is small beside the primals."""
    scale = entry_size(primals)
    largest = max((float(v.abs().max()) for v in tangents if v.numel()), default=0.0)
    for relative in _STEPS[precision]:
        yield relative * scale / largest if largest > 0 else relative


def difference(
    evaluate: Evaluate,
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    step: float,
    precision: torch.dtype,
) -> Difference:
    """Fourth-order central difference of the gradient of `evaluate` along `tangents` (four gradients).

    Source: Abramowitz and Stegun (1964), formula 25.2.6; the error bar follows from the two central
    differences of second order at h and 2h, of which this is the Richardson extrapolation.
    """
    (value, ahead), (_, behind), (_, ahead2), (_, behind2) = (
        gradient(evaluate, moved(primals, tangents, k * step)) for k in (1, -1, 2, -2)
    )
    near = [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]
    far = [(a - b) / (4 * step) for a, b in zip(ahead2, behind2, strict=True)]
    product = [(4 * n - f) / 3 for n, f in zip(near, far, strict=True)]
    # |D4 - D2| is the error of D2; that of D4 is smaller by about the square of the same relative factor.
    truncation = distance(product, near)
    size = max(norm(product), norm(near))
    shrink = min(1.0, truncation / size) if size > 0 else 0.0
    # Where terms cancel in the gradient, its rounding error is that of the terms, of the size of f / |x|.
    terms = max(norm(ahead), abs(float(value)) / entry_size(primals))
    rounding = 2 * torch.finfo(precision).eps * terms / step
    return Difference(product, truncation, rounding, truncation * shrink + rounding, step)


def compare(
    evaluate: Evaluate,
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    product: Sequence[Tensor],
    precision: torch.dtype | None = None,
) -> Check:
    """Hold `product` against differences of gradients with finer and finer steps.

    It passes as soon as one agrees within the tolerance and its error bar. It fails where two differences
    agree with each other and not with it, and their truncation error falls with the step as a smooth
    function's does (across the kinks of many ReLUs differences agree too, on a smeared curvature). Where
    neither happens, the comparison cannot tell. `precision` is the coarsest dtype that the function computes
    in, by default that of the primals; it sets steps and tolerance.
    """
    precision = precision or coarsest(primals)
    tolerance = _TOLERANCE[precision]
    best = math.inf
    previous: Difference | None = None
    for step in ladder(primals, tangents, precision):
        current = difference(evaluate, primals, tangents, step, precision)
        if not all_finite(current.product):
            continue
        if not all_finite(product):
            detail = "the product is not finite, the difference is"
            return Check(_NAME, math.inf, tolerance, False, detail)
        scale = max(norm(product), norm(current.product))
        off = distance(current.product, product)
        relative = off / scale if scale > 0 else 0.0
        meaningful = current.error <= max(0.1, 3 * tolerance) * scale or scale <= 3 * current.rounding
        if meaningful and off <= tolerance * scale + 3 * current.error:
            return Check(_NAME, relative, tolerance, True, f"step {step:.0e}")
        if previous is not None and _contradict(previous, current, off):
            detail = f"steps {previous.step:.0e} and {step:.0e} agree with each other"
            return Check(_NAME, relative, tolerance, False, detail)
        best = min(best, relative) if math.isfinite(relative) else best
        previous = current
    return Check(_NAME, best, tolerance, None, "the steps disagree with one another")


def compare_value(
    evaluate: Evaluate,
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    slope: Sequence[Tensor],
    precision: torch.dtype | None = None,
) -> Check:
    """Hold ⟨∇f, v⟩ against differences of the value along v = `tangents`, as `compare` does with products."""
    expected, size = dot(slope, tangents), norm(slope) * norm(tangents)
    return compare_slope(evaluate, primals, tangents, expected, size, precision or coarsest(primals))


def compare_slope(
    evaluate: Evaluate,
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    expected: float,
    size: float,
    precision: torch.dtype,
) -> Check:
    """`compare_value` from ⟨∇f, v⟩ and ‖∇f‖ ‖v‖, for who cannot hold both vectors."""
    name = "gradient against differences of the value"
    tolerance = _VALUE_TOLERANCE[precision]
    # ⟨∇f, v⟩ may nearly cancel: then the error is one of the terms that cancel.
    floor = 1e-3 * size
    best = math.inf
    previous: float | None = None
    for step in ladder(primals, tangents, precision):
        estimate, rounding = _slope(evaluate, primals, tangents, step, precision)
        scale = max(abs(expected), abs(estimate), floor)
        off = abs(estimate - expected)
        relative = off / scale if scale > 0 else 0.0
        if off <= tolerance * scale + rounding:
            return Check(name, relative, tolerance, True, f"step {step:.0e}")
        if previous is not None and abs(estimate - previous) + rounding <= 0.02 * off:
            return Check(name, relative, tolerance, False, "two steps agree with each other")
        best = min(best, relative) if math.isfinite(relative) else best
        previous = estimate
    return Check(name, best, tolerance, None, "the steps disagree with one another")


def _slope(
    evaluate: Evaluate,
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    step: float,
    precision: torch.dtype,
) -> tuple[float, float]:
    """Fourth-order central difference of the value, and its rounding error."""
    ahead, behind, ahead2, behind2 = (
        float(evaluate(moved(primals, tangents, k * step)).detach()) for k in (1, -1, 2, -2)
    )
    rounding = 4 * torch.finfo(precision).eps * max(abs(ahead), abs(behind)) / step
    return (8 * (ahead - behind) - (ahead2 - behind2)) / (12 * step), rounding


def _contradict(coarse: Difference, fine: Difference, off: float) -> bool:
    """Whether two differences agree and speak against a product that is `off` from the finer one."""
    smooth = fine.truncation <= 0.2 * coarse.truncation + 3 * fine.rounding
    return smooth and distance(coarse.product, fine.product) + 3 * fine.error <= 0.1 * off
