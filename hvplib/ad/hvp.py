"""`hvp`: the Hessian of a scalar function times a vector, without the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from hvplib.ad.finite_difference import finite_difference
from hvplib.ad.guard import derivative
from hvplib.ad.inputs import check_strategy, flatten_like, flatten_primals, unflatten
from hvplib.ad.leaves import ordinary
from hvplib.ad.objective import Objective
from hvplib.ad.report import Attempt
from hvplib.ad.select import (
    FORWARD,
    is_missing_derivative,
    raise_if_func_itself_fails,
    refusal,
    refuse_cut_off,
    select,
)
from hvplib.ad.strategies import (
    Outcome,
    forward_over_reverse,
    functional_forward,
    functional_reverse,
    reverse_over_reverse,
)
from hvplib.ad.transforms import in_transform
from hvplib.ad.verify import against_difference

__all__ = ["by_name", "hvp", "product"]


def hvp(func: Callable[..., Any], primals: Any, tangents: Any, *, strategy: str = "auto") -> Any:
    """H v = d/dt ∇f(x + t v) at t = 0: the Hessian of `func` at `primals` times `tangents`.

    Computed as a jvp of a vjp (forward-over-reverse): exact up to rounding, at the cost of a few gradients,
    and without forming H. Composes with `torch.func.vmap`, `grad` and `jvp`; works under `torch.no_grad`.
    Where an operation has no forward-mode derivative, reverse-over-reverse takes over and is confirmed by one
    difference of gradients before it is returned; where no way is right the call is refused.

    Args:
        func: Function of the primals that returns a real scalar tensor. Called as `func(*primals)` if primals
            is a tuple, else as `func(primals)`. Random operations in it (dropout) see the same noise at every
            evaluation; the generators, and every tensor func writes to, are as before afterwards.
        primals: Pytree of real floating tensors, or a tuple of arguments.
        tangents: Pytree like `primals`, each tensor with the shape, dtype and device of its primal.
        strategy: "auto"; "forward-over-reverse"; "reverse-over-reverse"; or "finite-difference" (4th order,
            approximate, only by name).

    Returns:
        H v as a pytree like `tangents`. It carries a graph (for third derivatives) if grad mode is on and a
        primal, a tangent or a captured tensor requires grad.

    Raises:
        DerivativeError: No way of differentiating func twice is right; the message names the operation.
        OutputError: func did not return a real scalar tensor.
        TypeError, ValueError, RuntimeError: Bad primals or tangents (RuntimeError for complex ones).

    Source:
        B. A. Pearlmutter (1994), Fast exact multiplication by the Hessian, Neural Computation 6(1), 147-160,
        doi:10.1162/neco.1994.6.1.147.

    Example:
        >>> import torch
        >>> from hvplib import hvp
        >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> v = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> hvp(lambda x: (x**3).sum() + x.prod(), x, v)  # H = [[6 x0, 1], [1, 6 x1]]
        tensor([6., 1.], dtype=torch.float64)
    """
    check_strategy(strategy)
    leaves, spec = flatten_primals(primals)
    directions = flatten_like("tangents", tangents, primals, leaves, spec)
    with derivative():  # the lock first: another thread may be using the generators
        objective = Objective(func, spec, functional=in_transform())
        with objective.session():
            outcome = product(objective, leaves, [ordinary(v) for v in directions], strategy)
    return unflatten(outcome.product, spec)


def product(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor], strategy: str
) -> Outcome:
    """The outcome of the named strategy where the caller stands: plain, in a transform, in dual numbers."""
    if objective.functional:
        return _in_transform(objective, primals, tangents, strategy)
    if strategy == "finite-difference":
        return finite_difference(objective, primals, tangents)
    connected = torch.is_grad_enabled() and any(t.requires_grad for t in (*primals, *tangents))
    if fwAD._current_level >= 0:
        # Dual numbers do not nest; double backward carries the tangents of the level around it along.
        nested = [x if x.requires_grad else x.clone().requires_grad_() for x in primals]
        return reverse_over_reverse(objective, nested, tangents)
    if strategy == "auto":
        outcome = select(objective, primals, tangents).outcome
    else:
        outcome = by_name(objective, primals, tangents, strategy)
        _refuse_contradicted(objective, primals, tangents, outcome, strategy)
    captured = torch.is_grad_enabled() and outcome.facts.captured
    return outcome if connected or captured else outcome.detached()


def by_name(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor], strategy: str
) -> Outcome:
    """The outcome of one of the exact strategies as it is, or a refusal where it is not available."""
    way = forward_over_reverse if strategy == FORWARD else reverse_over_reverse
    try:
        return way(objective, primals, tangents)
    except RuntimeError as error:
        if not is_missing_derivative(error):
            raise
        raise_if_func_itself_fails(objective, primals)
        raise refusal([Attempt(strategy, str(error).splitlines()[0])], error) from error


def _refuse_contradicted(
    objective: Objective,
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    outcome: Outcome,
    strategy: str,
) -> None:
    """Refuse what nobody vouches for: a value cut off from its argument, a wrong custom function."""
    if outcome.disconnected:
        refuse_cut_off(objective, primals, tangents, outcome)
    elif outcome.facts.custom:
        check = against_difference(objective, primals, tangents, outcome.product)
        if check.passed is False:
            raise refusal([Attempt(strategy, str(check))], None)


def _in_transform(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor], strategy: str
) -> Outcome:
    """Inside a transform values cannot be looked at, so a fall-back cannot be confirmed.

    Operations of torch fall back all the same (their double backward is torch's own, and the known wrong ones
    are refused); a custom autograd function, of which nothing is known, does not.
    """
    if strategy == "finite-difference":
        return finite_difference(objective, primals, tangents)
    if strategy == "reverse-over-reverse":
        return functional_reverse(objective, primals, tangents)
    try:
        return functional_forward(objective, primals, tangents)
    except RuntimeError as error:
        if not is_missing_derivative(error):
            raise
        unknown = "autograd.Function" in str(error) or "HigherOrderOperator" in str(error)
        if not unknown:
            raise_if_func_itself_fails(objective, primals)
        if strategy == FORWARD or unknown:
            raise refusal([Attempt(FORWARD, str(error).splitlines()[0])], error) from error
        return functional_reverse(objective, primals, tangents)
