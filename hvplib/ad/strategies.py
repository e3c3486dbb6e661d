"""The ways of multiplying a vector by the Hessian, each exact up to rounding where its operations allow it.

All take a flat list of primals and of tangents and give an `Outcome`. Reverse-over-forward, `grad(jvp)`, is
not
among them: through LayerNorm and BatchNorm torch 2.13 computes it wrong without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from hvplib.ad.backward import materialized, pulled_back
from hvplib.ad.dual import load_forward_formulas, make_dual, with_formulas_if_needed
from hvplib.ad.graph import GraphFacts, graph_facts
from hvplib.ad.leaves import apart, fresh, marked, ordinary
from hvplib.ad.objective import Objective
from hvplib.ad.remedies import Way

_dual: Any = fwAD  # its functions carry no types

__all__ = ["Outcome", "forward_over_reverse", "functional_forward", "functional_reverse", "gradient"]
__all__ += ["functional_gradient", "reverse_over_reverse"]


@dataclass
class Outcome:
    """Value, gradient and product at a point, and what was seen on the way.

    Attributes:
        value: 0-d tensor.
        gradient: One tensor per primal.
        product: One tensor per primal: the Hessian times the tangents.
        vanishes: Whether the product is exactly zero: that of a linear function, or of one whose derivative
            got lost.
        disconnected: Whether not even the value was seen to depend on the primals.
        facts: What the graph of the value says.
        leaves, differentiated: Where the graph of the gradient leads to, and the gradient with that graph, if
            it can be pulled back.
    """

    value: Tensor
    gradient: Sequence[Tensor]
    product: Sequence[Tensor]
    vanishes: bool = False
    disconnected: bool = False
    facts: GraphFacts = field(default_factory=GraphFacts)
    leaves: Sequence[Tensor] = ()
    differentiated: Sequence[Tensor] = ()

    def detached(self) -> Outcome:
        """The same numbers without a graph."""
        self.value = self.value.detach()
        self.gradient = [g.detach() for g in self.gradient]
        self.product = [h.detach() for h in self.product]
        return self


def forward_over_reverse(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> Outcome:
    """jvp of vjp: the directional derivative of the reverse-mode gradient, by dual numbers.

    The same derivative as `torch.func.jvp(torch.func.grad(f), ...)` without the layers of torch.func, which
    cost as much again on a small function. The gradient is taken with `create_graph=True`: without it torch
    picks backward kernels that have no, or a wrong, forward derivative.
    """
    return with_formulas_if_needed(lambda: _forward_over_reverse(objective, primals, tangents))


def _forward_over_reverse(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> Outcome:
    grad_mode = torch.is_grad_enabled()
    with torch.enable_grad(), fwAD.dual_level():
        leaves = [
            _dual_leaf(x, v, connects=grad_mode and x.requires_grad)
            for x, v in zip(primals, tangents, strict=True)
        ]
        value = objective(leaves, "forward")
        if not value.requires_grad:
            return _disconnected(value, leaves)
        facts = graph_facts(value, leaves)
        if not facts.reached:
            return _disconnected(value, leaves)
        # A seed with a tangent of its own: torch handles a missing one by a detour through Python.
        plain = _dual.unpack_dual(value).primal
        seed = make_dual(torch.ones_like(plain), torch.zeros_like(plain))
        gradients = materialized(pulled_back([value], leaves, [seed], create_graph=True), leaves)
        unpacked = [_dual.unpack_dual(g) for g in gradients]
    product = [
        torch.zeros_like(x) if g.tangent is None else g.tangent for g, x in zip(unpacked, leaves, strict=True)
    ]
    vanishes = not any(g.tangent is not None and bool(g.tangent.any()) for g in unpacked)
    gradient = [g.primal for g in unpacked]
    outcome = Outcome(plain, gradient, product, vanishes=vanishes, facts=facts)
    outcome.leaves, outcome.differentiated = leaves, gradients  # out of their level, they are plain numbers
    return outcome


def reverse_over_reverse(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> Outcome:
    """Double backward: the gradient of ⟨gradient, tangents⟩."""
    leaves = _differentiable(primals)
    grad_mode = torch.is_grad_enabled()
    connected = any(t.requires_grad for t in (*primals, *tangents))
    with torch.enable_grad():
        value, gradients, facts = differentiate(objective, leaves)
        if gradients is None:
            return _disconnected(value, primals)
        live = [(g, v) for g, v in zip(gradients, tangents, strict=True) if g.requires_grad]
        if not live:
            zeros = [torch.zeros_like(x) for x in leaves]
            return Outcome(value, gradients, zeros, vanishes=True, facts=facts)
        product = pulled_back(
            [g for g, _ in live],
            leaves,
            [v for _, v in live],
            create_graph=grad_mode and (connected or facts.captured),
        )
    return Outcome(value, gradients, materialized(product, leaves), facts=facts)


def differentiate(
    objective: Objective, leaves: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...] | None, GraphFacts]:
    """Value and gradient at leaves that require grad, with the gradient's own graph; None if disconnected."""
    value = objective(leaves, "reverse")
    if not value.requires_grad:
        return value, None, GraphFacts()
    facts = graph_facts(value, leaves)
    if not facts.reached:
        return value, None, facts
    gradients = torch.autograd.grad(
        value, leaves, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return value, gradients, facts


def gradient(evaluate: Any, primals: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Value and plain reverse-mode gradient, without a graph. `evaluate` takes the list of leaves."""
    leaves = [fresh(x) for x in primals]
    with torch.enable_grad():
        value = evaluate(leaves)
        if not value.requires_grad:
            return value.detach(), [torch.zeros_like(x) for x in primals]
        gradients = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return value.detach(), list(gradients)


def functional_forward(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> Outcome:
    """`torch.func.jvp` of `torch.func.grad`: slower, and composes with vmap, grad and jvp around it."""
    load_forward_formulas()
    result: Any = torch.func.jvp(
        functional_gradient(objective, "forward", len(primals)),
        tuple(apart(x) for x in primals),
        tuple(tangents),
        has_aux=True,
    )
    gradients, product, value = result
    return Outcome(value, gradients, product)


def functional_reverse(
    objective: Objective, primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> Outcome:
    """`torch.func.vjp` of `torch.func.grad`: for operations without forward mode, inside other transforms."""
    result: Any = torch.func.vjp(
        functional_gradient(objective, "reverse", len(primals)), *map(apart, primals), has_aux=True
    )
    gradients, pull_back, value = result
    return Outcome(value, gradients, pull_back(tuple(tangents)))


def functional_gradient(objective: Objective, way: Way, count: int) -> Callable[..., Any]:
    """(leaves) -> (gradients, value), for torch.func transforms with `has_aux=True`."""
    return torch.func.grad_and_value(lambda *leaves: objective(leaves, way), argnums=tuple(range(count)))


def _dual_leaf(x: Tensor, tangent: Tensor, *, connects: bool) -> Tensor:
    """A dual number whose graph ends at it, or at x if the result is to connect to x."""
    if connects:
        return make_dual(apart(x), tangent)
    dual = make_dual(apart(ordinary(x.detach())), tangent)
    return marked(dual)


def _differentiable(primals: Sequence[Tensor]) -> list[Tensor]:
    """The primals as tensors that require grad: the user's own where they do, so that the result connects."""
    if torch.is_grad_enabled():
        return [apart(x) if x.requires_grad else fresh(x) for x in primals]
    return [fresh(x) for x in primals]


def _disconnected(value: Tensor, primals: Sequence[Tensor]) -> Outcome:
    zeros = [torch.zeros_like(x) for x in primals]
    return Outcome(value, zeros, list(zeros), vanishes=True, disconnected=True)
