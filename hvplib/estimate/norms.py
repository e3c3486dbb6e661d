"""Norms of an operator from products, with their errors."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hvplib.estimate.averaged import Callback, averaged
from hvplib.estimate.found import Found, of_mean, result_of
from hvplib.estimate.function_trace import LanczosQuadrature
from hvplib.estimate.goal import Goal
from hvplib.estimate.hutchinson import forms
from hvplib.estimate.methods import NORM, Exact, Hutchinson, Method, method_of
from hvplib.estimate.probes import Probes, generator_of
from hvplib.estimate.products import Products
from hvplib.estimate.schatten import power_sum
from hvplib.estimate.trace import limit_of
from hvplib.operators.base import Operator
from hvplib.operators.coerce import as_operator
from hvplib.results.common import settled
from hvplib.results.estimate import Estimate

__all__ = ["frobenius_norm", "schatten_norm"]

# Sums of squares are taken to be right to so many eps.
_ROUNDING = 32.0


def frobenius_norm(A: Any, **settings: Any) -> Estimate:
    """‖A‖_F = (Σ a_ij²)^½ = (E ‖A z‖²)^½ of an A known by its products; with an interval.

    Args:
        A: (m, n): an operator, tensor, array, or SciPy's sparse matrix or LinearOperator.
        **settings: As for `schatten_norm`, which this is for p = 2.

    Returns:
        An `Estimate`.

    Example:
        >>> import torch
        >>> from hvplib import frobenius_norm
        >>> A = torch.randn(2000, 1000, generator=torch.Generator().manual_seed(0)).double()
        >>> result = frobenius_norm(A, rtol=0.05)
        >>> result.interval[0] <= float(A.norm()) <= result.interval[1], result.num_matvecs
        (True, 16)
    """
    return schatten_norm(A, 2, **settings)


def schatten_norm(
    A: Any,
    p: float,
    *,
    method: Method | LanczosQuadrature | str | None = None,
    rtol: float | None = None,
    confidence: float = 0.95,
    max_matvecs: int | None = None,
    generator: torch.Generator | int | None = None,
    callback: Callback | None = None,
    throw: bool = True,
) -> Estimate:
    """‖A‖_p = (Σ σ_i^p)^(1/p), of the singular values σ of A, for any p ≥ 1; with an interval.

    For even p = 2 q it is (E ‖w‖²)^(1/p), w = ... Aᵀ A z with q factors in all, so q products for a random
    z. For others, the nuclear norm (p = 1) among them, it is the trace of |A|^p = (AᵀA)^(p/2) by stochastic
    Lanczos quadrature. The interval is that of the mean, drawn through the root; for p that are not even it
    holds the quadrature's error too, as `bound` tells and `trace_of_function` says.

    Without a tolerance the products allowed are spent. With one it ends as soon as the interval of the norm
    is within rtol of it; looked at as for `trace`.

    Args:
        A: (m, n): an operator, tensor, array, or SciPy's sparse matrix or LinearOperator. Products with Aᵀ
            are needed for p other than 2 where it is not symmetric.
        p: 1 or more; 2 is the Frobenius norm. As p grows it nears the largest singular value, for which
            there is `svds`. The nuclear norm, p = 1, of a positive semidefinite A is its `trace`.
        method: For even p "hutchinson" (`Hutchinson`), for others "slq" (`LanczosQuadrature`); or "exact"
            (`Exact`): n q products for even p, n and all singular values for others. None takes the last
            where that is within `max_matvecs` (even p with a tolerance: where n ≤ 64; others: n ≤ 2000).
        rtol: Relative tolerance.
        confidence: Of the interval.
        max_matvecs: Most products; 100 q if None, and 1000 q with a tolerance. For p that are not even 1000,
            and 20 000 with a tolerance.
        generator: Of the random vectors, or a seed; without one, equal calls give equal bits.
        callback: Is told an `EstimateProgress` after each block, of Σ σ_i^p; a true return value ends it.
        throw: Raise `ConvergenceError` if the tolerance is not reached or a product is not finite.

    Returns:
        An `Estimate`. Where the decay of σ^p is fast, `trace((A.T @ A) ** q, method="xnystrace")` comes
        nearer with the same products.

    Raises:
        ConvergenceError: See `throw`; its `.result` holds what there is.
        ValueError: p is less than 1, or another argument is out of range.

    Source: Hutchinson (1989), 10.1080/03610918908812806, for AᵀA; Ubaru, Chen, Saad (2017),
    10.1137/16M1104974, for the quadrature.

    Example:
        >>> import torch
        >>> from hvplib import Diagonal, schatten_norm
        >>> result = schatten_norm(Diagonal(torch.tensor([3.0, 4.0, 5.0]).double()), 4)
        >>> abs(result.value - (81 + 256 + 625) ** 0.25) <= result.error < 1e-13
        True
        >>> round(schatten_norm(torch.tensor([[3.0, 0.0], [4.0, 0.0]]), 1).value, 5)  # the nuclear norm
        5.0
    """
    if isinstance(p, bool) or not 1 <= p < math.inf:
        raise ValueError(
            f"p must be a number, 1 or more and finite, got {p!r}; for the largest singular value use svds"
        )
    operator = as_operator(A)
    if rtol is not None and not 0 <= rtol < 1:
        raise ValueError(f"rtol must be at least 0 and less than 1, got {rtol!r}")
    # 1 − (1 − ε)^p below, and more above: an error within this on the sum is one within ε on the root.
    goal = Goal(None if rtol is None else 1 - (1 - rtol) ** p, None, confidence)
    if p % 2:
        options: dict[str, Any] = {"max_matvecs": max_matvecs, "generator": generator, "callback": callback}
        found = power_sum(operator, p, method=method, goal=goal, **options)
    else:
        found = _even(operator, int(p) // 2, method, goal, max_matvecs, generator_of(generator), callback)
    return settled(_root(found, p, rtol, torch.finfo(operator.torch_dtype).eps), throw=throw)


def _even(
    operator: Operator,
    factors: int,
    method: Any,
    goal: Goal,
    max_matvecs: int | None,
    generator: torch.Generator,
    callback: Callback | None,
) -> Estimate:
    """Σ σ_i^p for p = 2 · factors."""
    limit = limit_of(max_matvecs, goal) * (factors if max_matvecs is None else 1)
    used, reason = _chosen(operator.shape[1] * factors, method, goal, limit)
    products = Products(operator, limit)
    if isinstance(used, Exact):
        found = _all(products, factors, used.block_size, goal)
    else:
        found = _mean(products, factors, used, goal, generator, callback)
    return result_of(found, goal, products.counts, used, reason)


def _chosen(needed: int, method: Method | str | None, goal: Goal, limit: int) -> tuple[Method, str]:
    used = None if method is None else method_of(method, NORM)
    if isinstance(used, Exact) and limit < needed:
        raise ValueError(f"max_matvecs must be at least {needed} for {used}, got {limit}")
    if used is not None:
        return used, "as given"
    if needed <= (min(64, limit) if goal.asks else limit):
        return Exact(), f"{needed} products give all of it"
    return Hutchinson(), f"the exact one would take {needed} products"


def _squares(products: Products, X: Tensor, factors: int, purpose: str) -> Tensor:
    """‖... Aᵀ A x‖² (k,) for columns x."""
    for step in range(factors):
        forward = products.operator.symmetric or step % 2 == 0
        X = products(X, purpose) if forward else products.transposed(X, purpose)
    return forms(X, X)


def _mean(
    products: Products,
    factors: int,
    method: Method,
    goal: Goal,
    generator: torch.Generator,
    callback: Callback | None,
) -> Found:
    assert isinstance(method, Hutchinson)
    probes = Probes.of(products.operator, generator=generator, distribution=method.distribution)
    mean = averaged(
        lambda count: _squares(products, probes.block(count), factors, "samples"),
        goal,
        max_samples=max(products.left // factors, 1),
        block_size=method.block_size,
        spent=lambda: products.total,
        callback=callback,
    )
    return of_mean(mean)


def _all(products: Products, factors: int, block_size: int, goal: Goal) -> Found:
    n, total = products.operator.shape[1], torch.zeros((), dtype=torch.float64)
    for start in range(0, n, block_size):
        stop = min(start + block_size, n)
        options: dict[str, Any] = {"dtype": products.operator.torch_dtype, "device": products.operator.device}
        rows = torch.zeros(stop - start, n, **options)
        rows.diagonal(start).fill_(1)
        total = total + _squares(products, rows.mT, factors, "unit vectors").sum()
    return Found.exact(total, 0.0, goal, products.total)


def _root(found: Estimate, p: float, rtol: float | None, eps: float) -> Estimate:
    """The p-th root of a sum of p-th powers, and of its interval; rounding is relative there."""
    value = max(found.value, 0.0) ** (1 / p)
    rounding = _ROUNDING * eps * value
    low, high = (max(end, 0.0) ** (1 / p) for end in found.interval)
    slope = value / (p * found.value) if found.value > 0 else 0.0
    history = found.history.clone()
    powers = history[:, 1].clone()
    history[:, 1] = powers ** (1 / p)
    history[:, 2] = torch.where(powers > 0, history[:, 2] * history[:, 1] / (p * powers), history[:, 2])
    return replace(
        found,
        value=value,
        stderr=found.stderr * slope,
        interval=(low - rounding, high + rounding),
        error=(high - low) / 2 + rounding,
        tolerance=math.inf if rtol is None else rtol * value,
        bound=found.bound * slope + rounding,
        history=history,
    )
