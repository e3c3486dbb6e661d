"""`trace`: the trace of an operator from products, with its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hvplib.estimate.averaged import LEAST, Callback
from hvplib.estimate.deadline import Deadline
from hvplib.estimate.exact import exact_diagonal
from hvplib.estimate.exchangeable import exchanged
from hvplib.estimate.found import Found, result_of
from hvplib.estimate.goal import Goal
from hvplib.estimate.hutchinson import forms, sampled
from hvplib.estimate.hutchpp import hutchpp
from hvplib.estimate.methods import TRACE, Exact, Hutchinson, HutchPP, Method, XNysTrace, XTrace, method_of
from hvplib.estimate.probes import Probes, generator_of
from hvplib.estimate.products import Products
from hvplib.estimate.ranges import Range
from hvplib.estimate.xnystrace import XNysTraceSketch
from hvplib.estimate.xtrace import XTraceSketch
from hvplib.operators.base import Operator
from hvplib.operators.basic import SciPyOperator
from hvplib.operators.coerce import as_operator, as_symmetric
from hvplib.results.common import settled
from hvplib.results.estimate import Estimate

__all__ = ["check_limit", "estimated_trace", "limit_of", "square", "trace"]

# Products where no limit is given: without a tolerance, and with one.
_SPENT, _ALLOWED = 100, 1000
# A sketch may take so many bytes before the method without one is chosen.
_SKETCH = 2**31


def trace(
    A: Any,
    *,
    method: Method | str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    max_matvecs: int | None = None,
    time_limit: float | None = None,
    generator: torch.Generator | int | None = None,
    callback: Callback | None = None,
    throw: bool = True,
) -> Estimate:
    """tr A = Σ a_ii of a square A known by its products; with a standard error and an interval.

    Without a tolerance the products allowed are spent, and the error that they leave is stated. With one it
    ends as soon as half of the interval's length is at most max(rtol |estimate|, atol). That is looked at
    from 16 random vectors on, a few times, at growing numbers of them, and the interval allows for it.

    The intervals are made for, and tested on, products that are the same each time.

    Args:
        A: Square (n, n): an operator, tensor, array, or SciPy's sparse matrix or LinearOperator.
        method: "hutchinson" (`Hutchinson`), "xtrace" (`XTrace`): any square A; "hutch++" (`HutchPP`): a
            symmetric one; "xnystrace" (`XNysTrace`): a positive semidefinite one; "exact" (`Exact`): n
            products. None takes "exact" where that is within `max_matvecs` (with a tolerance: where n ≤ 64,
            and in the end if the tolerance is not reached otherwise), else "xnystrace" where A is declared
            positive semidefinite, else "xtrace"; "hutchinson" where their sketch would take more than 2 GiB.
        rtol: Relative tolerance; see above.
        atol: Absolute tolerance; the larger of both counts.
        confidence: Of the interval: in this part of all cases it holds the truth.
        max_matvecs: Most products; 100 if None, and 1000 with a tolerance.
        time_limit: Seconds; looked at after each block of samples. "exact", and the sketch of "hutch++", are
            not ended before they are done.
        generator: Of the random vectors, or a seed; without one, equal calls give equal bits.
        callback: Is told an `EstimateProgress` after each block; a true return value ends it.
        throw: Raise `ConvergenceError` if the tolerance is not reached or a product is not finite. Ctrl-C,
            the callback and the time limit never raise: the result is the best so far.

    Returns:
        An `Estimate`.

    Raises:
        ConvergenceError: See `throw`; its `.result` holds what there is.
        ValueError: An argument is out of range, A is not square, or not of the kind that the method needs.

    Source: the methods name their own; see `Samples.interval` for the intervals.

    Example:
        >>> import torch
        >>> from hvplib import Diagonal, trace
        >>> A = Diagonal(1 / torch.arange(1, 10_001).double() ** 2)
        >>> result = trace(A, method="xtrace", rtol=2e-2)
        >>> low, high = result.interval
        >>> low <= float(A.diagonal.sum()) <= high, result.num_matvecs
        (True, 32)
        >>> print(result)
        estimated: the error is stated, and within the tolerance if one was given
          value      1.6... ± 0.00... (standard error)
          95 %       1.6... to 1.6...
          error      0.0..., allowed 0.03...
          method     XTrace(block_size=8) (as given)
          samples    16
          products   32: 16 sketch, 16 projection
    """
    goal, ending = Goal(rtol, atol, confidence), Deadline(time_limit, callback)
    operator = square(A)
    plan = _planned(A, operator, method, goal, limit_of(max_matvecs, goal))
    products = Products(plan.operator, plan.limit)
    found = ending.told(estimated_trace(products, plan.method, goal, generator_of(generator), ending))
    used: Method = plan.method
    if plan.exact_after_all and not found.status.success and not found.status.asked_for:
        products.limit += operator.shape[0]
        used, found = Exact(), _exact(products, Exact(), goal)
    return settled(result_of(found, goal, products.counts, used, plan.reason), throw=throw)


def estimated_trace(
    products: Products, method: Method, goal: Goal, generator: torch.Generator, callback: Callback | None
) -> Found:
    """tr A by one method, with the products that are left."""
    if isinstance(method, Exact):
        return _exact(products, method, goal)
    common: dict[str, Any] = {"block_size": method.block_size, "callback": callback}
    normal = Probes.of(products.operator, generator=generator, distribution="normal")
    if isinstance(method, Hutchinson):
        drawn = Probes.of(products.operator, generator=generator, distribution=method.distribution)
        return sampled(products, drawn, goal, forms, **common)
    if isinstance(method, HutchPP):
        signs = Probes.of(products.operator, generator=generator)
        return hutchpp(products, Range(products, normal), signs, goal, **common)
    common["spent"] = lambda: products.total
    n = products.operator.shape[0]
    if isinstance(method, XTrace):
        sketch = XTraceSketch(products, normal)
        bound = lambda: products.rounding() + sketch.rest  # noqa: E731
        return exchanged(sketch, goal, max_samples=min(products.left // 2, n), bound=bound, **common)
    nystrom = XNysTraceSketch(products, normal)
    return exchanged(nystrom, goal, max_samples=min(products.left, n), bound=products.rounding, **common)


def _exact(products: Products, method: Exact, goal: Goal) -> Found:
    value = exact_diagonal(products, method.block_size).sum().cpu()
    return Found.exact(value, products.rounding(), goal, products.total)


@dataclass(frozen=True)
class _Plan:
    """A method, why, and what it may spend."""

    operator: Operator
    method: Method
    reason: str
    limit: int
    exact_after_all: bool = False


def _planned(A: Any, operator: Operator, method: Method | str | None, goal: Goal, limit: int) -> _Plan:
    n = operator.shape[0]
    if method is not None:
        given = method_of(method, TRACE)
        check_limit(given, n, limit)
        return _Plan(_fitting(A, operator, given), given, "as given", limit)
    # With a tolerance, few products may do; n of them are kept back for the case that they do not.
    before = limit if not goal.asks else min(limit - n, n)
    if n <= (64 if goal.asks else limit) or (limit >= n and before < 2 * LEAST):
        return _Plan(operator, Exact(), f"{n} products give the whole diagonal", max(limit, n))
    spent = before if limit >= n else limit
    chosen, reason = _chosen(operator, spent)
    return _Plan(operator, chosen, reason, spent, exact_after_all=goal.asks and limit >= n)


def _chosen(operator: Operator, limit: int) -> tuple[Method, str]:
    vectors = min(limit, operator.shape[0]) * operator.shape[0]
    size = operator.torch_dtype.itemsize
    if operator.positive_semidefinite and 3 * vectors * 8 <= _SKETCH:
        return XNysTrace(), "A is declared positive semidefinite"
    if 2 * vectors * size <= _SKETCH:
        return (
            XTrace(),
            "A is not declared positive semidefinite"
            if not operator.positive_semidefinite
            else ("a Nyström approximation in float64 would take more than 2 GiB"),
        )
    return Hutchinson(), "a sketch would take more than 2 GiB"


def square(A: Any) -> Operator:
    """A as an operator, if it is square."""
    operator = as_operator(A)
    rows, columns = operator.shape
    if rows != columns:
        raise ValueError(f"A must be square, got shape ({rows}, {columns})")
    return operator


def _fitting(A: Any, operator: Operator, method: Method) -> Operator:
    """The operator, where the method may be used for it."""
    if not isinstance(method, HutchPP | XNysTrace) or operator.symmetric:
        return operator
    kind = "symmetric" if isinstance(method, HutchPP) else "positive semidefinite"
    if isinstance(A, Operator) and not isinstance(A, SciPyOperator):
        raise ValueError(
            f"method {method} is for a {kind} A, and A is not declared symmetric; declare it if it is, or "
            "use 'xtrace' or 'hutchinson', which take any square A"
        )
    return as_symmetric(A)


def limit_of(max_matvecs: int | None, goal: Goal) -> int:
    """Most products, from what was given."""
    if max_matvecs is None:
        return _ALLOWED if goal.asks else _SPENT
    if isinstance(max_matvecs, bool) or not isinstance(max_matvecs, int) or max_matvecs < 1:
        raise ValueError(f"max_matvecs must be a positive integer or None, got {max_matvecs!r}")
    return max_matvecs


def check_limit(method: Method, n: int, limit: int) -> None:
    """Refuse a limit with which the method can do nothing."""
    least = n if isinstance(method, Exact) else 3 if isinstance(method, HutchPP) else 2
    if limit < least and not isinstance(method, Hutchinson | XNysTrace):
        raise ValueError(f"max_matvecs must be at least {least} for {method}, got {limit}")
