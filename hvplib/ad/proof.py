"""Which engine may be used: the kept graph only if it stands up to every check that can be made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hvplib.ad.engines import Engine, GraphEngine, RecomputeEngine
from hvplib.ad.objective import Objective
from hvplib.ad.report import Attempt, Check
from hvplib.ad.select import FORWARD, REVERSE, is_missing_derivative
from hvplib.ad.strategies import forward_over_reverse
from hvplib.ad.verify import against_difference, agreement, probes, repeatability, rounding, symmetry
from hvplib.errors import DerivativeError

__all__ = ["proven"]


def proven(engine: Engine, objective: Objective, leaves: Sequence[Tensor]) -> Engine:
    """`engine` if its products are right, another that is, or a DerivativeError.

    Two independent ways must agree, the product must be symmetric and come out the same twice, and a
    difference of gradients must not speak against it. An engine that works afresh for each vector proves
    itself.
    """
    v, w = probes(leaves, 2)
    if not isinstance(engine, GraphEngine):
        engine.product(v)
        return engine
    reason = _examine(engine, objective, leaves, v, w)
    if reason is None:
        return engine
    other = RecomputeEngine(objective, leaves, "auto", given_up=reason)
    hv, hw = other.product(v), other.product(w)
    precision = objective.precision(leaves)
    noise = rounding(other.value, other.gradient, leaves, v, precision)
    check = symmetry(v, hv, w, hw, precision, noise)
    if check.passed is False:
        raise DerivativeError(
            f"no way of multiplying with the Hessian of func stands up to the checks:\n"
            f"  {REVERSE}: {reason}\n  {FORWARD}: {check}\n"
            "func may treat part of its argument as a constant, or use an operation whose derivative is wrong"
        )
    difference = against_difference(objective, leaves, v, hv)
    if difference.passed is False:
        raise DerivativeError(
            f"no way of multiplying with the Hessian of func stands up to the checks:\n"
            f"  {REVERSE}: {reason}\n  {FORWARD}: {difference}"
        )
    other.checks.extend([check, difference])
    return other


def _examine(
    engine: GraphEngine, objective: Objective, leaves: Sequence[Tensor], v: list[Tensor], w: list[Tensor]
) -> Exception | None:
    """None if the engine's products are right, otherwise what speaks against them."""
    try:
        hv, again, hw = engine.product(v), engine.product(v), engine.product(w)
    except RuntimeError as error:
        if not is_missing_derivative(error):
            raise
        return error
    precision = objective.precision(leaves)
    noise = rounding(engine.value, engine.gradient, leaves, v, precision)
    checks = [symmetry(v, hv, w, hw, precision, noise), repeatability(hv, again, precision, noise)]
    forward = _forward(objective, leaves, v)
    if isinstance(forward, Exception):
        engine.attempts.append(Attempt(FORWARD, str(forward).splitlines()[0]))
    else:
        checks.append(agreement(hv, forward, f"{REVERSE} against {FORWARD}", precision, noise))
    difference = against_difference(objective, leaves, v, hv)
    engine.checks[:] = [*checks, difference]
    return _verdict(checks, difference, alone=isinstance(forward, Exception))


def _verdict(checks: list[Check], difference: Check, *, alone: bool) -> Exception | None:
    failed = [check for check in (*checks, difference) if check.passed is False]
    if failed and not (difference.passed and all("against" in check.name for check in failed)):
        return DerivativeError("; ".join(map(str, failed)))
    if alone and difference.passed is None:
        return DerivativeError(f"nothing confirms it: {difference}")
    return None


def _forward(objective: Objective, leaves: Sequence[Tensor], v: list[Tensor]) -> Sequence[Tensor] | Exception:
    """The product by the definition, the second of two calls; the exception where it is not available."""
    try:
        with torch.no_grad():
            forward_over_reverse(objective, leaves, v)
            return forward_over_reverse(objective, leaves, v).detached().product
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        if not is_missing_derivative(error):
            raise
        return error
