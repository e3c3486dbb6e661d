"""Proof of a fast way of multiplying before it is used: each check sees errors that the others miss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hvplib.ad.differences import compare
from hvplib.ad.objective import Objective
from hvplib.ad.report import Check
from hvplib.ad.vectors import distance, dot, entry_size, norm, relative_error

__all__ = ["against_difference", "agreement", "probes", "repeatability", "rounding", "symmetry"]
__all__ += ["rounding_of", "symmetry_of"]

Product = Callable[[Sequence[Tensor]], Sequence[Tensor]]

# Between what rounding makes and the smallest error of a wrong formula lie orders of magnitude on both sides.
_SYMMETRY = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}
_AGREEMENT = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 1e-1, torch.bfloat16: 2e-1}


def probes(primals: Sequence[Tensor], count: int, *, seed: int = 0) -> list[list[Tensor]]:
    """`count` random normal directions, always the same: checks draw from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x.device, x.dtype)
            for x in primals
        ]
        for _ in range(count)
    ]


def symmetry(
    v: Sequence[Tensor],
    hv: Sequence[Tensor],
    w: Sequence[Tensor],
    hw: Sequence[Tensor],
    precision: torch.dtype,
    noise: float = 0.0,
) -> Check:
    """|⟨w, Hv⟩ − ⟨v, Hw⟩| beside ‖w‖‖Hv‖ + ‖v‖‖Hw‖: a Hessian is symmetric, a wrong product rarely."""
    return symmetry_of(
        abs(dot(w, hv) - dot(v, hw)), (norm(v), norm(hv)), (norm(w), norm(hw)), precision, noise
    )


def symmetry_of(
    defect: float,
    first: tuple[float, float],
    second: tuple[float, float],
    precision: torch.dtype,
    noise: float = 0.0,
) -> Check:
    """`symmetry` from |⟨w, Hv⟩ − ⟨v, Hw⟩|, (‖v‖, ‖Hv‖) and (‖w‖, ‖Hw‖), for who cannot hold all vectors."""
    (v, hv), (w, hw) = first, second
    scale = w * hv + v * hw
    error = 0.0 if scale == 0 else defect / scale
    return _check("symmetry", error, _SYMMETRY[precision], negligible=defect <= noise * (v + w))


def repeatability(
    first: Sequence[Tensor], again: Sequence[Tensor], precision: torch.dtype, noise: float = 0.0
) -> Check:
    """The same product twice: scripted functions change on their second call, noise on every one."""
    return _compared("called twice", first, again, 1e-3, precision, noise)


def agreement(
    left: Sequence[Tensor],
    right: Sequence[Tensor],
    names: str,
    precision: torch.dtype,
    noise: float | Callable[[], float] = 0.0,
) -> Check:
    """Two independent ways of computing one product; `noise` may be a function, asked if it matters."""
    return _compared(names, left, right, 1.0, precision, noise)


def against_difference(
    objective: Objective,
    primals: Sequence[Tensor],
    v: Sequence[Tensor],
    hv: Sequence[Tensor],
    *,
    frozen: bool = True,
) -> Check:
    """A product against differences of the gradient of the function that autograd differentiates.

    `frozen` keeps its stop-gradients as they are at the point. Not for a function that keeps results between
    calls: by a detached copy of its argument it would take every point for this one.
    """
    points = [x.detach() for x in primals]
    evaluate = objective.frozen(points) if frozen else lambda xs: objective(xs, "plain")
    try:
        return compare(evaluate, points, [t.detach() for t in v], hv, objective.precision(points))
    except IndexError:
        return Check("difference of gradients", math.inf, 0.0, None, "func takes another path nearby")
    finally:
        objective.stops.forget()


def _compared(
    name: str,
    left: Sequence[Tensor],
    right: Sequence[Tensor],
    share: float,
    precision: torch.dtype,
    noise: float | Callable[[], float],
) -> Check:
    error = relative_error(left, right)
    tolerance = share * _AGREEMENT[precision]
    if error <= tolerance:
        return Check(name, error, tolerance, True)
    bound = noise() if callable(noise) else noise
    return _check(name, error, tolerance, negligible=distance(left, right) <= bound)


def _check(name: str, error: float, tolerance: float, *, negligible: bool) -> Check:
    within = error <= tolerance  # False where a number is NaN
    detail = "zero within the rounding of func" if negligible and not within else ""
    return Check(name, error, tolerance, within or negligible, detail)


def rounding(
    value: Tensor,
    gradient: Sequence[Tensor],
    primals: Sequence[Tensor],
    v: Sequence[Tensor],
    precision: torch.dtype,
) -> float:
    """‖error of Hv‖ that rounding alone makes, about: what a product that should be zero may come out as.

    100 eps (|f| / s² + ‖∇f‖ / s) ‖v‖ with s the size of the primals' entries.
    """
    return rounding_of(float(value.detach()), norm(gradient), primals, norm(v), precision)


def rounding_of(
    value: float, slope: float, primals: Sequence[Tensor], length: float, precision: torch.dtype
) -> float:
    """`rounding` from f, ‖∇f‖ and ‖v‖, for who cannot hold the vectors."""
    scale = entry_size(primals)
    unit = (abs(value) / scale + slope) / scale * length
    noise = 100 * torch.finfo(precision).eps * unit
    return noise if math.isfinite(noise) else 0.0
