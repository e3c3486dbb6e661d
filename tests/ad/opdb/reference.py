"""The truth to hold a product against: differences of gradients, and of values where those are wrong."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[..., Tensor]
STEPS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)
# Central differences of 4th order: points in units of the step, and their weights times 12.
_STENCIL = ((-2, 1.0), (-1, -8.0), (1, 8.0), (2, -1.0))


@dataclass(frozen=True)
class Reference:
    """H v by differences, with its error bar; `gradient_is_derivative` is False where torch's own gradient
    contradicts the values."""

    product: Tensor
    error: float
    gradient_size: float
    gradient_is_derivative: bool
    symmetric: bool


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def seeded(fresh: Callable[[], Function], primals: Sequence[Tensor]) -> Tensor:
    """f at a point, with the same random numbers at each call."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fresh()(*primals)


def gradient(fresh: Callable[[], Function], primals: Sequence[Tensor]) -> Tensor:
    leaves = [x.detach().clone().requires_grad_() for x in primals]
    value = seeded(fresh, leaves)
    grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return flat([g.to_dense() if g.layout != torch.strided else g for g in grads])


def _shifted(primals: Sequence[Tensor], direction: Sequence[Tensor], step: float) -> list[Tensor]:
    return [x + step * v for x, v in zip(primals, direction, strict=True)]


def ladder(evaluate: Callable[[float], Tensor]) -> tuple[Tensor, float]:
    """The derivative of `evaluate` at 0 by the two steps that agree best, and how much they differ."""
    best: tuple[Tensor, float] | None = None
    previous: Tensor | None = None
    for step in STEPS:
        estimate = sum(weight * evaluate(point * step) for point, weight in _STENCIL) / (12 * step)
        assert isinstance(estimate, Tensor)
        if previous is not None:
            error = float((estimate - previous).abs().max()) if estimate.numel() else 0.0
            if error == error and (best is None or error < best[1]):
                best = (estimate, error)
            if best is not None and best[1] <= 1e-10 * float(best[0].abs().max()):
                break
        previous = estimate
    return best if best is not None else (torch.full_like(evaluate(0.0), torch.nan), torch.inf)


def reference(
    fresh: Callable[[], Function], primals: Sequence[Tensor], v: Sequence[Tensor], u: Sequence[Tensor]
) -> Reference:
    """H v from gradients; it also compares the gradient with values, and u·Hv with v·Hu."""
    base = gradient(fresh, primals)
    product, error = ladder(lambda t: gradient(fresh, _shifted(primals, v, t)))
    slope, slope_error = ladder(lambda t: seeded(fresh, _shifted(primals, v, t)).detach())
    expected = torch.dot(base, flat(v))
    allowed = 1e-6 * (float(base.abs().max()) + abs(float(expected))) + 20 * slope_error
    faithful = bool((slope - expected).abs() <= allowed)
    symmetric = True
    if not faithful:
        other, other_error = ladder(lambda t: gradient(fresh, _shifted(primals, u, t)))
        left, right = torch.dot(flat(u), product), torch.dot(flat(v), other)
        bar = 1e-6 * (abs(float(left)) + abs(float(right))) + 20 * (error + other_error) * base.numel()
        symmetric = bool((left - right).abs() <= bar)
    return Reference(product, error, float(base.abs().max()), faithful, symmetric)


def second_difference(
    fresh: Callable[[], Function], primals: Sequence[Tensor], u: Sequence[Tensor], v: Sequence[Tensor]
) -> tuple[float, float]:
    """u·Hv from values alone, with an error bar: a mixed difference of 4th order in both directions."""
    estimates = []
    for step in (3e-3, 1e-3, 3e-4):
        total = 0.0
        for i, a in _STENCIL:
            for j, b in _STENCIL:
                point = _shifted(_shifted(primals, u, i * step), v, j * step)
                total += a * b * float(seeded(fresh, point))
        estimates.append(total / (144 * step * step))
    first, second = min(itertools.pairwise(estimates), key=lambda pair: abs(pair[0] - pair[1]))
    return second, abs(first - second)
