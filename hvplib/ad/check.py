"""`check_hvp`: whether the Hessian-vector products of a function are right, told in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hvplib.ad.differences import compare_value
from hvplib.ad.guard import derivative
from hvplib.ad.hvp import by_name, product
from hvplib.ad.inputs import check_strategy, flatten_primals
from hvplib.ad.objective import Objective
from hvplib.ad.report import Attempt, Check
from hvplib.ad.select import FORWARD, REVERSE
from hvplib.ad.verify import against_difference, agreement, probes, repeatability, rounding, symmetry
from hvplib.errors import DerivativeError

__all__ = ["CheckReport", "check_hvp"]


@dataclass(frozen=True)
class CheckReport:
    """What a self-check found.

    Attributes:
        checks: Each comparison with its error, tolerance and verdict.
        attempts: Ways that are not available for this function, with the reason.
        remedies: What the library put in the place of operations of func.
    """

    checks: tuple[Check, ...]
    attempts: tuple[Attempt, ...] = ()
    remedies: tuple[str, ...] = ()

    @property
    def ok(self) -> bool | None:
        """False if a check failed, None if none failed but one could not tell, True otherwise."""
        verdicts = {check.passed for check in self.checks}
        return False if False in verdicts or not verdicts else None if None in verdicts else True

    def __str__(self) -> str:
        heads = {True: "right: every check passed", False: "WRONG: a check failed", None: "inconclusive"}
        lines = [heads[self.ok], *(f"  {check}" for check in self.checks)]
        lines += [f"  not available: {attempt}" for attempt in self.attempts]
        if self.remedies:
            lines.append(f"  remedies: {', '.join(self.remedies)}")
        return "\n".join(lines)


def check_hvp(
    func: Callable[..., Any], primals: Any, *, strategy: str = "auto", seed: int = 0
) -> CheckReport:
    """Examine H v = ∇²f(x) v along random directions by everything that can be compared.

    The products of `strategy` are tested for symmetry, called twice, held against the other exact way and
    against differences of gradients with a ladder of steps; the gradient against differences of the value. No
    one of these sees every error: a wrong product may be symmetric, and one that is the exact derivative of a
    wrong gradient agrees with differences of it. Costs about thirty gradients.

    Args:
        func: As for `hvp`.
        primals: As for `hvp`.
        strategy: The way whose products are examined.
        seed: Seed of the random directions (a generator of their own; the global one stays as it is).

    Returns:
        A `CheckReport`; `.ok` is True, False, or None where the steps disagree with one another (kinks, low
        precision). `print` it.

    Raises:
        DerivativeError: `strategy` gives no product at all.
        TypeError, ValueError, RuntimeError: As `hvp`.

    Example:
        >>> import torch
        >>> from hvplib import check_hvp
        >>> check_hvp(lambda x: x.sin().prod(), torch.ones(3, dtype=torch.float64)).ok
        True
    """
    check_strategy(strategy)
    leaves, spec = flatten_primals(primals)
    v, w = probes(leaves, 2, seed=seed)
    with derivative(), torch.no_grad():
        objective = Objective(func, spec)
        with objective.session():
            return _examine(objective, [x.detach() for x in leaves], v, w, strategy)


def _examine(
    objective: Objective, leaves: Sequence[Tensor], v: list[Tensor], w: list[Tensor], strategy: str
) -> CheckReport:
    multiply = product if strategy in ("auto", "finite-difference") else by_name  # as it is, to be examined
    first = multiply(objective, leaves, v, strategy)
    hv = first.product
    again = multiply(objective, leaves, v, strategy).product
    hw = multiply(objective, leaves, w, strategy).product
    precision = objective.precision(leaves)
    noise = rounding(first.value, first.gradient, leaves, v, precision)
    checks = [symmetry(v, hv, w, hw, precision, noise), repeatability(hv, again, precision, noise)]
    attempts = []
    for other in (FORWARD, REVERSE):
        if other != strategy:
            try:
                judge = by_name(objective, leaves, v, other).product
                checks.append(agreement(hv, judge, f"{strategy} against {other}", precision, noise))
            except DerivativeError as error:
                attempts.append(Attempt(other, str(error.__cause__ or error).splitlines()[0]))
    checks.append(against_difference(objective, leaves, v, hv))
    checks.append(compare_value(lambda xs: objective(xs, "plain"), leaves, v, first.gradient, precision))
    return CheckReport(tuple(checks), tuple(attempts), tuple(sorted(objective.used)))
