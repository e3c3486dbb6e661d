"""Schatten norms of any order: traces of |A|^p by Lanczos quadrature, or all singular values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hvplib.estimate.averaged import Callback
from hvplib.estimate.found import Found, result_of
from hvplib.estimate.function_trace import LanczosQuadrature, trace_of_function
from hvplib.estimate.goal import Goal
from hvplib.estimate.methods import Exact
from hvplib.estimate.spectral_function import SpectralFunction
from hvplib.operators.base import Operator
from hvplib.results.estimate import Estimate

__all__ = ["power_sum"]

# Products where no limit is given, and the most with a tolerance; as for `trace_of_function`.
_SPENT, _ALLOWED = 1000, 20_000
_STORABLE = 2000
# The singular values of a dense matrix are right to so many eps of the largest.
_ROUNDINGS = 16.0


def power_sum(
    operator: Operator,
    p: float,
    *,
    method: object,
    goal: Goal,
    max_matvecs: int | None,
    generator: torch.Generator | int | None,
    callback: Callback | None,
) -> Estimate:
    """Σ σ_i^p = tr (AᵀA)^(p/2) of the singular values of A: tr |A|^p where A is symmetric.

    Args:
        operator: A (m, n).
        p: At least 1.
        method: "slq", a `LanczosQuadrature`, "exact", `Exact()`, or None.
        goal: For the sum.
        max_matvecs: As for `schatten_norm`.
        generator: The same.
        callback: The same.
    """
    limit = (_ALLOWED if goal.asks else _SPENT) if max_matvecs is None else max_matvecs
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(f"max_matvecs must be a positive integer or None, got {max_matvecs!r}")
    n, reason = operator.shape[1], "as given"
    if method is None:
        method = "exact" if n <= min(limit, _STORABLE) else "slq"
        reason = (
            f"{n} products give the whole matrix" if method == "exact" else f"n = {n} is too large for all"
        )
    if method == "exact" or isinstance(method, Exact):
        if limit < n:
            raise ValueError(f"max_matvecs must be at least {n} for all singular values, got {limit}")
        return _exact(operator, p, goal, reason)
    if not (method == "slq" or isinstance(method, LanczosQuadrature)):
        raise ValueError(
            f'method must be "slq", "exact", a LanczosQuadrature or None for p = {p:g}, got {method!r}'
        )
    products, matrix, function = _problem(operator, p)
    found = trace_of_function(
        matrix,
        function,
        method=method if isinstance(method, LanczosQuadrature) else "slq",
        rtol=goal.rtol,
        confidence=goal.confidence,
        max_matvecs=max(limit // products, 1),
        generator=generator,
        callback=callback,
        throw=False,
    )
    counts = {purpose: products * count for purpose, count in found.matvecs.items()}
    history = found.history.clone()
    history[:, 0] *= products
    return replace(found, matvecs=counts, history=history, reason=reason)


def _problem(operator: Operator, p: float) -> tuple[int, Operator, Callable[[Tensor], Tensor]]:
    """A symmetric matrix, what one product with it takes, and f whose trace is Σ σ^p."""
    if operator.symmetric:
        return 1, operator, lambda values: values.abs() ** p
    # Of a square root of something at zero rounding sees no sign: what is below zero is zero.
    power = SpectralFunction(
        f"x^{p / 2:g}", lambda values: values ** (p / 2), _signs(p / 2), 0.0, closed=True
    )
    return 2, operator.T @ operator, power


def _signs(q: float) -> tuple[int, int] | None:
    """Of the derivatives of x^q, even and odd ones: those of x^½ as long as q < 1."""
    return (-1, 1) if q < 1 else None


def _exact(operator: Operator, p: float, goal: Goal, reason: str) -> Estimate:
    matrix = operator.to_dense().to("cpu", torch.float64)
    value = bound = math.nan
    if bool(matrix.isfinite().all()):
        values = torch.linalg.svdvals(matrix)
        value = float((values**p).sum())
        # ‖A + E‖_p is within ‖E‖_p ≤ min(m, n)^(1/p) ‖E‖ of ‖A‖_p.
        eps = torch.finfo(operator.torch_dtype).eps
        moved = _ROUNDINGS * eps * float(values.max()) * len(values) ** (1 / p)
        bound = (value ** (1 / p) + moved) ** p - value
    n = operator.shape[1]
    found = Found.exact(torch.tensor(value, dtype=torch.float64), bound, goal, n)
    return result_of(found, goal, {"unit vectors": n}, "exact", reason)
