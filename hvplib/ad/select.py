"""The ladder of `strategy="auto"`: the definition first, others where it cannot, proof before belief."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hvplib.ad.objective import Objective
from hvplib.ad.report import Attempt, Check
from hvplib.ad.strategies import (
    Outcome,
    forward_over_reverse,
    functional_forward,
    gradient,
    reverse_over_reverse,
)
from hvplib.ad.vectors import all_finite, distance, moved, norm
from hvplib.ad.verify import against_difference
from hvplib.errors import DerivativeError, OutputError

__all__ = ["Selection", "failing_op", "refusal", "refuse_cut_off", "select"]

FORWARD, REVERSE = "forward-over-reverse", "reverse-over-reverse"
# torch and the code inside user functions raise these where a derivative is missing; anything else (and
# running out of memory) is not about derivatives and passes through.
_MISSING = (RuntimeError, AssertionError, ValueError, TypeError, IndexError)

_LADDER: tuple[tuple[str, Callable[..., Outcome]], ...] = (
    (FORWARD, forward_over_reverse),
    (REVERSE, reverse_over_reverse),
    # torch.func goes where dual numbers over autograd do not: forward mode inside func, inference tensors
    (FORWARD + " (torch.func)", functional_forward),
)


@dataclass
class Selection:
    """The outcome of the ladder: what to return, the way it came, what was given up and what was checked."""

    outcome: Outcome
    strategy: str
    attempts: list[Attempt] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)


def select(objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> Selection:
    """The product by the first way that gives one and is not contradicted.

    Forward-over-reverse is taken at its word unless something speaks against it (a custom autograd
    function, a singular point, a result that vanishes or is not finite); whatever comes after it must agree
    with a difference of gradients.

    Raises:
        DerivativeError: Where no way is right; the message names the operation.
    """
    attempts: list[Attempt] = []
    undecided: list[Selection] = []
    error: Exception | None = None
    remembers = False
    for name, strategy in _LADDER:
        try:
            outcome = strategy(objective, primals, tangents)
        except _MISSING as caught:
            if not is_missing_derivative(caught):
                raise
            if error is None:
                raise_if_func_itself_fails(objective, primals)
                error = caught
            attempts.append(Attempt(name, _first_line(caught)))
            continue
        if outcome.disconnected or outcome.facts.stale:
            check = _independent(objective, primals, tangents, outcome.value)
            if check.passed and outcome.disconnected:
                return Selection(outcome, name, attempts, [check])
            # That check called func elsewhere: a function that keeps its last result has now forgotten it.
            outcome = strategy(objective, primals, tangents)
            remembers = True
            if outcome.disconnected and not outcome.value.requires_grad and _declared(objective):
                return Selection(outcome, name, attempts, [check])
            if outcome.disconnected or outcome.facts.stale:
                raise DerivativeError(_CUT_OFF)
        selection = Selection(outcome, name, attempts)
        if not remembers and not _needs_proof(selection, objective):
            return selection
        check = against_difference(objective, primals, tangents, outcome.product, frozen=not remembers)
        selection.checks.append(check)
        if check.passed:
            return selection
        if check.passed is None and not outcome.facts.custom and not outcome.vanishes:
            undecided.append(selection)
        attempts.append(Attempt(name, str(check)))
    return _settle(undecided, attempts, error, objective)


def _settle(
    undecided: list[Selection], attempts: list[Attempt], error: Exception | None, objective: Objective
) -> Selection:
    """Where the difference could not tell: a way that torch has formulas for and no other contradicts."""
    finite = [s for s in undecided if all_finite(s.outcome.product)]
    chosen = (finite or undecided)[:1]
    agree = all(_close(chosen[0].outcome, other.outcome) for other in finite[1:]) if chosen else False
    if chosen and not objective.undefined and (agree or objective.singular):
        first = chosen[0]
        own = next(i for i, attempt in enumerate(attempts) if attempt.strategy == first.strategy)
        return Selection(first.outcome, first.strategy, attempts[:own], first.checks)
    raise refusal(attempts, error)


def _needs_proof(selection: Selection, objective: Objective) -> bool:
    outcome = selection.outcome
    return (
        selection.strategy != FORWARD
        or bool(outcome.facts.custom)
        or objective.singular
        or outcome.vanishes
        or (not all_finite(outcome.product) and all_finite([outcome.value, *outcome.gradient]))
    )


_CUT_OFF = (
    "func's value changes with primals but carries no derivative: it is computed under no_grad, through "
    ".item() or NumPy, or comes from a cache; compute it with differentiable torch operations"
)


def _independent(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor], value: Tensor
) -> Check:
    """A value without a graph is right only if it is a constant: look at it elsewhere."""
    elsewhere = moved([x.detach() for x in primals], [v.detach() for v in tangents], 1.0)
    there = gradient(lambda xs: objective(xs, "plain"), elsewhere)[0]
    change = float((there - value.detach()).abs())
    constant = change == 0.0 or not math.isfinite(change)
    return Check("func is constant", change, 0.0, constant, "" if constant else _CUT_OFF)


def refuse_cut_off(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor], outcome: Outcome
) -> None:
    """Raise if func's value depends on the primals without a graph that says so (or with another call's)."""
    if not outcome.value.requires_grad and _declared(objective):
        return
    if not _independent(objective, primals, tangents, outcome.value).passed:
        raise DerivativeError(_CUT_OFF)


def _declared(objective: Objective) -> bool:
    """Cutting everything by .detach() is a declaration; plain numbers and no_grad are rather an accident."""
    return objective.detached and not objective.escaped


def raise_if_func_itself_fails(objective: Objective, primals: Sequence[Tensor]) -> None:
    """Run func plainly: an error that it raises by itself is the user's to see as it is."""
    with torch.enable_grad():
        objective([x.detach().clone() for x in primals], "plain")


def is_missing_derivative(error: Exception) -> bool:
    """Whether this exception may mean that a way of differentiating is not available."""
    if isinstance(error, OutputError | torch.OutOfMemoryError):
        return False
    return "allocate memory" not in str(error)


_OP_PATTERNS = (
    r"forward AD with (?:aten::)?(\w+)",
    r"derivative for '?(?:aten::)?(\w+)'? is not implemented",
    r"(\w+) does not support (?:automatic )?differentiation",
    r"autograd\.Function",
)


def failing_op(error: BaseException) -> str | None:
    """The operation that torch's message names."""
    op = getattr(error, "op", None)
    if isinstance(op, str):
        return op
    for pattern in _OP_PATTERNS:
        if match := re.search(pattern, str(error)):
            return match.group(1) if match.groups() else "a custom torch.autograd.Function"
    return None


def refusal(attempts: Sequence[Attempt], error: Exception | None) -> DerivativeError:
    """The one error for "no way is right", with what was tried and what to do."""
    op = failing_op(error) if error is not None else None
    tried = "\n".join(f"  {attempt}" for attempt in attempts)
    message = (
        f"no way of differentiating func twice is right here; the operation in the way is "
        f"{op or 'not named by torch'}. Tried:\n{tried}\n"
        "Remedies: write that operation with differentiable torch operations; give a custom "
        "torch.autograd.Function a twice differentiable backward; "
        'or ask for strategy="finite-difference" by name, knowing that it is approximate.'
    )
    refused = DerivativeError(message, op=op)
    refused.__cause__ = error
    return refused


def _close(left: Outcome, right: Outcome) -> bool:
    scale = max(norm(left.product), norm(right.product))
    eps = max(torch.finfo(x.dtype).eps for x in left.product)
    return distance(left.product, right.product) <= 1e3 * eps * scale


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
