"""J v and Jᵀu at a point with the memory of one gradient: nothing is kept from product to product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from hvplib.ad.graph import Graph, GraphFacts, graph_facts
from hvplib.ad.guard import derivative
from hvplib.ad.leaves import fresh, ordinary
from hvplib.ad.linearization import first_line, output_space, pushed_tree, refuse_missing
from hvplib.ad.objective import Objective
from hvplib.ad.report import Attempt
from hvplib.ad.select import failing_op, is_missing_derivative
from hvplib.space import Space

__all__ = ["FrugalJacobian", "Pulled"]

_T = TypeVar("_T")


class Pulled:
    """r(x) with its graph, for as long as it is in use: u ↦ Jᵀu.

    Attributes:
        output: r(x) as func returns it, detached; None after `last`.
    """

    def __init__(self, output: Any, leaves: Sequence[Tensor]) -> None:
        self._outputs = tree_leaves(output)
        self._leaves = leaves
        self.output = tree_map(Tensor.detach, output)

    def __call__(self, cotangents: Any) -> list[Tensor]:
        """Jᵀu, one tensor per primal, for a pytree u like r(x); the graph stays."""
        return self._pull(tree_leaves(cotangents), keep=True)

    def last(self, cotangents: list[Tensor]) -> list[Tensor]:
        """Jᵀu for the tensors u of a pytree like r(x), and the end of r(x), its graph, and u.

        Args:
            cotangents: u, which is taken out of the list. Outputs of a large vocabulary weigh as much as the
                parameters: neither they nor u are held while the graph is gone through.
        """
        return self._pull(cotangents, keep=False)

    def _pull(self, cotangents: list[Tensor], *, keep: bool) -> list[Tensor]:
        live = [(r, u) for r, u in zip(self._outputs, cotangents, strict=True) if r.requires_grad]
        if not live:
            return [torch.zeros_like(x) for x in self._leaves]
        outputs, seeds = [r for r, _ in live], [u for _, u in live]
        del live
        if not keep:
            cotangents.clear()
            self._outputs, self.output = [], None
        number = _Handed.apply(seeds, *outputs)  # type: ignore[no-untyped-call]
        del outputs, seeds
        pulled = torch.autograd.grad(
            number, self._leaves, retain_graph=keep, allow_unused=True, materialize_grads=True
        )
        return list(pulled)


class _Handed(torch.autograd.Function):
    """A number whose derivatives by r are u; they are let go of as they are handed over."""

    @staticmethod
    def forward(ctx: Any, seeds: list[Tensor], *outputs: Tensor) -> Tensor:
        ctx.seeds = seeds
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[Tensor | None, ...]:
        seeds, ctx.seeds = ctx.seeds, None
        return (None, *seeds)


class FrugalJacobian:
    """The Jacobian of r at a point: J v by dual numbers, Jᵀu through a graph that is made for it.

    Args:
        objective: r.
        primals: x.

    Attributes:
        space: Of r(x); None before `pulled` was first entered.
        facts: What the graph of r says of it.
        graph_nbytes: Bytes that the graph of r holds while it lives.
        attempts: Ways given up.
    """

    def __init__(self, objective: Objective, primals: Sequence[Tensor]) -> None:
        self._objective = objective
        self._points = [x.detach() for x in primals]
        self._graph = False
        self.space: Space | None = None
        self.facts = GraphFacts()
        self.graph_nbytes = 0
        self.attempts: list[Attempt] = []

    def push(self, tangents: Sequence[Tensor]) -> Any:
        """J v, a pytree like r(x)."""
        vectors = [ordinary(v) for v in tangents]
        if not self._graph:
            try:
                return pushed_tree(self._objective, self._points, vectors, graph=False)
            except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
                if not is_missing_derivative(error):
                    raise
                self._graph = True
                self.attempts.append(Attempt("forward mode without a graph", first_line(error)))
        return self._named(lambda: pushed_tree(self._objective, self._points, vectors))

    def value(self) -> Any:
        """r(x), without derivatives."""
        with derivative(), torch.enable_grad(), self._objective.session():
            return tree_map(Tensor.detach, self._objective.evaluate(self._points, "plain"))

    @contextmanager
    def pulled(self) -> Iterator[Pulled]:
        """r(x) and u ↦ Jᵀu, for the time of a block."""
        with derivative(), torch.enable_grad(), self._objective.session():
            leaves = [fresh(x) for x in self._points]
            output = self._named(lambda: self._objective.evaluate(leaves, "reverse"))
            if self.space is None:
                self._look(output, leaves)
            pulled = Pulled(output, leaves)
            del output
            yield pulled

    def _look(self, output: Any, leaves: Sequence[Tensor]) -> None:
        self.space = output_space(output)
        results = [r for r in tree_flatten(output)[0] if r.requires_grad]
        self.graph_nbytes = Graph(results).nbytes(leaves)
        each = [graph_facts(r, leaves) for r in results]
        self.facts = GraphFacts(
            tuple(dict.fromkeys(name for facts in each for name in facts.custom)),
            any(facts.reached for facts in each),
            any(facts.stale for facts in each),
            any(facts.captured for facts in each),
        )

    def _named(self, compute: Callable[[], _T]) -> _T:
        try:
            return compute()
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if not is_missing_derivative(error) or failing_op(error) is None:
                raise
            refuse_missing(error, self.attempts)
