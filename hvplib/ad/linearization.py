"""A tensor-valued function differentiated at one point: its graph, and the graph of its pullback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn, TypeVar

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from hvplib.ad.backward import materialized, pulled_back
from hvplib.ad.dual import make_dual, with_formulas_if_needed
from hvplib.ad.graph import GraphFacts, graph_facts
from hvplib.ad.guard import derivative
from hvplib.ad.leaves import apart, fresh, ordinary
from hvplib.ad.objective import Objective
from hvplib.ad.pullback import Pullback
from hvplib.ad.pushed_linear import LinearInPlace
from hvplib.ad.report import Attempt, Check, Report
from hvplib.ad.select import failing_op, is_missing_derivative
from hvplib.errors import DerivativeError, OutputError
from hvplib.space import Space

__all__ = ["DOUBLE_BACKWARD", "FORWARD", "Linearization", "output_space", "pushed_forward", "pushed_tree"]
__all__ += ["refuse_missing"]

DOUBLE_BACKWARD, FORWARD = "double-backward", "forward"
_dual: Any = fwAD  # its functions carry no types
_T = TypeVar("_T")
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)


class Linearization:
    """r(x) with its graph: u ↦ Jᵀu is one backward pass through it.

    v ↦ J v is one more backward pass, through the graph of Jᵀu, which is linear in u and whose pullback is
    therefore J; or a forward-mode pass through func itself.

    Args:
        objective: The function.
        primals: The point.
        strategy: How J v is computed: "double-backward" or "forward".

    Attributes:
        space: Of the values of r.
        value: r(x) as a vector (m,), without graph.
        facts: What the graph says of the function.
        strategy: As above; "forward" where the other way turned out not to exist.
        attempts: Ways given up, with their reasons.
        checks: What was checked of the products.
    """

    def __init__(self, objective: Objective, primals: Sequence[Tensor], strategy: str) -> None:
        self._objective = objective
        self._points = [x.detach() for x in primals]
        self._leaves = [fresh(x) for x in primals]
        self.strategy = strategy
        self.attempts: list[Attempt] = []
        self.checks: list[Check] = []
        with derivative(), torch.enable_grad(), objective.session():
            output = self._evaluated()
            self.space = output_space(output)
            flat = self.space.flatten(output)
            self.facts = graph_facts(flat, self._leaves) if flat.requires_grad else GraphFacts()
        if self.facts.stale:
            raise DerivativeError(
                "func keeps results, with their graphs, between calls, so that a derivative would be that of "
                "an earlier call; compute them anew at each call, or detach them"
            )
        self.output = detached(output)
        self.value = flat.detach()
        self.precision = objective.precision(self._points)
        self._pullback = Pullback([flat], self._leaves, self.precision, hooked=objective.hooked)
        self._flat = flat
        self._pushforward: Pullback | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that the graphs keep beyond the primals."""
        # The second graph leads into the first: what is kept is what it holds.
        kept = self._pullback if self._pushforward is None else self._pushforward
        return kept.nbytes

    def report(self) -> Report:
        """The way of computing J v, and what speaks for both products."""
        pulls = [p for p in (self._pullback, self._pushforward) if p is not None]
        attempts = [attempt for pull in pulls for attempt in pull.attempts]
        checks = [check for pull in pulls for check in pull.checks]
        remedies = tuple(sorted(self._objective.used))
        return Report(self.strategy, (*self.attempts, *attempts), remedies, (*self.checks, *checks))

    def vjp(self, u: Tensor) -> list[Tensor]:
        """Jᵀu of a vector (m,)."""
        return self._named(lambda: self._pullback([u]))

    def vjp_block(self, U: Tensor) -> list[Tensor]:
        """Jᵀu_j of the k rows of a (k, m), along a leading dimension."""
        return self._named(lambda: self._pullback.block([U]))

    def jvp(self, tangents: Sequence[Tensor]) -> Tensor:
        """J v (m,)."""
        if (push := self._kept()) is not None:
            return push(tangents)[0]
        return self._forward(tangents)

    def jvp_block(self, tangents: Sequence[Tensor]) -> Tensor:
        """J v_j (k, m) of k vectors along a leading dimension of each tensor."""
        if (push := self._kept()) is not None:
            return push.block(tangents)[0]
        width = tangents[0].shape[0]
        return torch.stack([self._forward([v[j] for v in tangents]) for j in range(width)])

    def _evaluated(self) -> Any:
        """The output of func with its graph; what func raises by itself passes through."""
        try:
            return self._objective.evaluate(self._leaves, "reverse")
        except _FAILURES as error:
            if not is_missing_derivative(error):
                raise
            # Only the double backward may be in the way: without a graph func must work by itself.
            self._objective.evaluate([x.clone() for x in self._points], "plain")
            self.strategy = FORWARD
            self.attempts.append(Attempt(DOUBLE_BACKWARD, first_line(error)))
            return self._named(lambda: self._objective.evaluate(self._leaves, "plain"))

    def _kept(self) -> Pullback | None:
        """The graph of u ↦ Jᵀu, made when it is asked for; None where J v is computed by forward mode."""
        if self.strategy == FORWARD:
            return None
        if self._pushforward is None:
            try:
                self._pushforward = self._transposed()
            except _FAILURES as error:
                if not is_missing_derivative(error):
                    raise
                self.strategy = FORWARD
                self.attempts.append(Attempt(DOUBLE_BACKWARD, first_line(error)))
        return self._pushforward

    def _transposed(self) -> Pullback:
        with derivative(), torch.enable_grad():
            seed = torch.ones_like(self.value, requires_grad=True)
            if not self._flat.requires_grad:
                return Pullback([torch.zeros_like(x) for x in self._leaves], [seed], self.precision)
            pulled = pulled_back([self._flat], self._leaves, [seed], create_graph=True)
            outputs = materialized(pulled, self._leaves)
            return Pullback(outputs, [seed], self.precision, hooked=self._objective.hooked)

    def _forward(self, tangents: Sequence[Tensor]) -> Tensor:
        return self._named(lambda: pushed_forward(self._objective, self._points, tangents, self.space))

    def _named(self, compute: Callable[[], _T]) -> _T:
        """`compute()`; where torch has no derivative, a DerivativeError that says so."""
        try:
            return compute()
        except _FAILURES as error:
            if isinstance(error, DerivativeError) or not is_missing_derivative(error):
                raise
            refuse_missing(error, self.attempts)


def pushed_forward(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor], space: Space
) -> Tensor:
    """J v (m,) by dual numbers: one evaluation of func, nothing kept."""
    return space.flatten(pushed_tree(objective, primals, tangents))


def pushed_tree(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor], *, graph: bool = True
) -> Any:
    """J v as a pytree like what func returns, by dual numbers.

    With `graph` func sees leaves that require grad: torch then picks kernels that have derivatives. Without,
    no graph of the evaluation is made, which takes as little memory as one without derivatives.
    """
    with derivative(), torch.enable_grad(), objective.session():
        return with_formulas_if_needed(lambda: _pushed_tree(objective, primals, tangents, graph))


def _pushed_tree(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor], graph: bool
) -> Any:
    saving = nullcontext() if graph else LinearInPlace()
    with fwAD.dual_level(), saving:
        leaves = [fresh(x) if graph else apart(ordinary(x.detach())) for x in primals]
        duals = [make_dual(x, ordinary(v)) for x, v in zip(leaves, tangents, strict=True)]
        output, spec = tree_flatten(objective.evaluate(duals, "forward"))
        return tree_unflatten([_tangent(leaf) for leaf in output], spec)


def _tangent(leaf: Tensor) -> Tensor:
    primal, tangent = _dual.unpack_dual(leaf)
    pushed: Tensor = primal.new_zeros(primal.shape) if tangent is None else tangent
    return pushed.detach()


def output_space(output: Any) -> Space:
    """The space of what func returns, or a clear error."""
    try:
        return Space.of(output)
    except (TypeError, ValueError) as error:
        raise OutputError(
            f"func must return a pytree of real floating point tensors: {error}; return tensors made of its "
            "argument by torch operations"
        ) from None


def detached(output: Any) -> Any:
    """The same pytree without graphs."""
    return torch.utils._pytree.tree_map(lambda leaf: leaf.detach(), output)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, with its kind."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def refuse_missing(error: Exception, attempts: Sequence[Attempt]) -> NoReturn:
    """Raise the DerivativeError for an operation that torch has no derivative of."""
    op = failing_op(error)
    tried = "".join(f"\n  {attempt}" for attempt in attempts)
    raise DerivativeError(
        f"func cannot be differentiated here; the operation in the way is {op or 'not named by torch'}: "
        f"{first_line(error)}{tried}\nRemedy: write it with differentiable torch operations, or give it a "
        "torch.autograd.Function with a backward and a jvp",
        op=op,
    ) from error
