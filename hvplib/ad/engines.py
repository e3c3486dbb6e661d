"""The ways of multiplying at a fixed point: a kept graph, or the derivative afresh for each vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hvplib.ad.graph import contains, graph_bytes
from hvplib.ad.guard import derivative
from hvplib.ad.hvp import product as product_by
from hvplib.ad.leaves import fresh, ordinary
from hvplib.ad.objective import Objective
from hvplib.ad.report import Attempt, Check, Report
from hvplib.ad.select import (
    REVERSE,
    is_missing_derivative,
    raise_if_func_itself_fails,
    refusal,
    select,
)
from hvplib.ad.strategies import differentiate, gradient
from hvplib.ad.verify import agreement, rounding
from hvplib.errors import DerivativeError

__all__ = ["Engine", "GraphEngine", "RecomputeEngine"]


class Engine(ABC):
    """Value and gradient at a point, and products with the Hessian there.

    Attributes:
        value: 0-d tensor.
        gradient: One tensor per primal.
        attempts: Ways given up for this one.
        checks: What was checked of its products.
        custom: Whether func holds custom autograd functions. Of these nothing is known elsewhere: one whose
            backward cannot be differentiated drops out of products without an error, which shows only where
            its share in them is not zero.
    """

    custom = False

    def __init__(self, value: Tensor, gradients: Sequence[Tensor]) -> None:
        self.value = value.detach()
        self.gradient = [g.detach() for g in gradients]
        self.attempts: list[Attempt] = []
        self.checks: list[Check] = []

    @property
    @abstractmethod
    def strategy(self) -> str:
        """The way taken, in words."""

    @abstractmethod
    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor]:
        """H v, one tensor per primal."""

    def block(self, tangents: Sequence[Tensor], width: int) -> Sequence[Tensor]:
        """H applied to `width` vectors, along a leading dimension."""
        columns = [self.product([v[j] for v in tangents]) for j in range(width)]
        return [torch.stack(parts) for parts in zip(*columns, strict=True)]

    def nbytes(self) -> int:
        """Bytes kept beyond the primals."""
        return 0

    def report(self, objective: Objective) -> Report:
        """The way taken and what speaks for it."""
        return Report(self.strategy, tuple(self.attempts), tuple(sorted(objective.used)), tuple(self.checks))


class GraphEngine(Engine):
    """The graph of the gradient, kept: a product is one backward pass through it."""

    def __init__(
        self, leaves: list[Tensor], value: Tensor, gradients: Sequence[Tensor], precision: torch.dtype
    ) -> None:
        super().__init__(value, gradients)
        self._leaves = leaves
        self._precision = precision
        self._live = [index for index, g in enumerate(gradients) if g.requires_grad]
        self._outputs = [gradients[index] for index in self._live]
        # None: not tried yet. vmap turns convolutions into grouped ones, two to three times slower a vector
        # than the loop. (A clock must not decide: batched and single products differ in the last bit.)
        self._batched: bool | None = False if contains(self._outputs, "ConvolutionBackward") else None

    @property
    def strategy(self) -> str:
        return REVERSE + " (graph kept)"

    @property
    def batches(self) -> bool:
        """Whether batched products are right and worth while."""
        return self._batched is True

    @classmethod
    def build(cls, objective: Objective, primals: Sequence[Tensor]) -> GraphEngine | DerivativeError:
        """The engine at these primals, or the reason why there is none."""
        leaves = [fresh(x) for x in primals]
        try:
            value, gradients, facts = differentiate(objective, leaves)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if not is_missing_derivative(error):
                raise
            raise_if_func_itself_fails(objective, primals)
            return refusal([Attempt(REVERSE, str(error).splitlines()[0])], error)
        if facts.stale:
            return DerivativeError("func keeps results, with their graphs, between calls")
        if gradients is None or not any(g.requires_grad for g in gradients):
            return DerivativeError("the gradient carries no graph: func looks linear to reverse mode")
        engine = cls(leaves, value, gradients, objective.precision(leaves))
        engine.custom = bool(facts.custom)
        return engine

    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor]:
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self.product([ordinary(v) for v in tangents])
        return self._pull(self._outputs, self._of_live(tangents), batched=False)

    def block(self, tangents: Sequence[Tensor], width: int) -> Sequence[Tensor]:
        if width > 1 and self._batched is not False:
            batched = self._try_batched(tangents)
            if batched is not None:
                return batched
        return super().block(tangents, width)

    def rows(self, leaf: int, vectors: Tensor) -> Sequence[Tensor]:
        """For vectors (k, *shape of that leaf): the rows of H that they select or combine, for every leaf.

        Cheaper than `block` with zeros for the other leaves: only this leaf's gradient is pulled back.
        """
        if leaf not in self._live:
            return [x.new_zeros((vectors.shape[0], *x.shape)) for x in self._leaves]
        output = self._outputs[self._live.index(leaf)]
        if self._batched is not False:
            batched = self._guarded(lambda: self._pull([output], [vectors], batched=True))
            if batched is not None:
                return batched
        singles = [self._pull([output], [v], batched=False) for v in vectors]
        return [torch.stack(parts) for parts in zip(*singles, strict=True)]

    def _try_batched(self, tangents: Sequence[Tensor]) -> Sequence[Tensor] | None:
        """One batched backward pass; None where an operation has no batching rule, or a wrong one."""
        result = self._guarded(lambda: self._pull(self._outputs, self._of_live(tangents), batched=True))
        if result is None or self._batched is not None:
            return result
        first = [v[0] for v in tangents]
        single = self.product(first)
        noise = rounding(self.value, self.gradient, self._leaves, first, self._precision)
        check = agreement([r[0] for r in result], single, "batched against single", self._precision, noise)
        self.checks.append(check)
        self._batched = check.passed is True
        return result if self._batched else None

    def _guarded(self, batched: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor] | None:
        """`batched()`, or None (now and from here on) where an operation has no batching rule."""
        # Without a rule vmap would loop over single operations, slower than the loop over products.
        with derivative():
            functorch: Any = torch._C._functorch  # the stubs lack these two names
            allowed = functorch._is_vmap_fallback_enabled()
            functorch._set_vmap_fallback_enabled(False)
            try:
                return batched()
            except RuntimeError as error:
                if not is_missing_derivative(error):
                    raise
                self._batched = False
                self.attempts.append(Attempt("batched products", str(error).splitlines()[0]))
                return None
            finally:
                functorch._set_vmap_fallback_enabled(allowed)

    def _of_live(self, tangents: Sequence[Tensor]) -> list[Tensor]:
        return [tangents[index] for index in self._live]

    def _pull(self, outputs: list[Tensor], vectors: Sequence[Tensor], *, batched: bool) -> Sequence[Tensor]:
        """⟨outputs, vectors⟩ differentiated: one backward pass through the kept graph, or one for a batch."""

        def pull(*cotangents: Tensor) -> Sequence[Tensor]:
            products: Sequence[Tensor | None] = torch.autograd.grad(
                outputs, self._leaves, cotangents, retain_graph=True, allow_unused=True
            )
            return tuple(
                torch.zeros_like(x) if p is None else p for p, x in zip(products, self._leaves, strict=True)
            )

        return torch.func.vmap(pull)(*vectors) if batched else pull(*vectors)

    def nbytes(self) -> int:
        return graph_bytes(self._outputs, self._leaves)


class RecomputeEngine(Engine):
    """The derivative afresh for each vector, where no graph can be kept or another way was asked for."""

    def __init__(
        self,
        objective: Objective,
        leaves: Sequence[Tensor],
        strategy: str,
        given_up: Exception | None = None,
    ) -> None:
        points = [x.detach() for x in leaves]
        super().__init__(*gradient(lambda xs: objective(xs, "plain"), points))
        self._objective = objective
        self._leaves = points
        self._strategy = strategy
        self._used = strategy
        if given_up is not None:
            self.attempts.append(Attempt(REVERSE + " (graph kept)", str(given_up).splitlines()[0]))

    @property
    def strategy(self) -> str:
        return self._used + " (afresh for each vector)"

    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor]:
        with derivative(), torch.no_grad(), self._objective.session():
            directions = [ordinary(v) for v in tangents]
            if self._strategy != "auto":
                return product_by(self._objective, self._leaves, directions, self._strategy).product
            selection = select(self._objective, self._leaves, directions)
        self._used = selection.strategy
        if not self.checks:
            self.checks.extend(selection.checks)
            self.attempts.extend(selection.attempts)
        return selection.outcome.detached().product
