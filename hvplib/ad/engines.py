"""The ways of multiplying at a fixed point: a kept graph, or the derivative afresh for each vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from hvplib.ad.guard import derivative
from hvplib.ad.hvp import product as product_by
from hvplib.ad.inputs import Engines
from hvplib.ad.leaves import fresh, ordinary
from hvplib.ad.objective import Objective
from hvplib.ad.pullback import Pullback
from hvplib.ad.report import Attempt, Check, Report
from hvplib.ad.select import (
    REVERSE,
    is_missing_derivative,
    raise_if_func_itself_fails,
    refusal,
    select,
)
from hvplib.ad.strategies import Outcome, differentiate, gradient
from hvplib.ad.verify import rounding
from hvplib.errors import DerivativeError

__all__ = ["Engine", "GraphEngine", "RecomputeEngine"]


class Engine(ABC):
    """Value and gradient at a point, and products with the Hessian there.

    Attributes:
        value: 0-d tensor.
        gradient: One tensor per primal.
        attempts: Ways given up for this one.
        checks: What was checked of its products.
        has_gradient: Whether the gradient is there; `differentiated` computes it otherwise.
        custom: Whether func holds custom autograd functions. Of these nothing is known elsewhere: one whose
            backward cannot be differentiated drops out of products without an error, which shows only where
            its share in them is not zero.
    """

    custom = False
    has_gradient = True

    def __init__(self, value: Tensor, gradients: Sequence[Tensor]) -> None:
        self.value = value.detach()
        self.gradient = [g.detach() for g in gradients]
        self.attempts: list[Attempt] = []
        self.checks: list[Check] = []

    def differentiated(self) -> list[Tensor]:
        """The gradient, computed if it is not there yet."""
        return self.gradient

    @property
    @abstractmethod
    def strategy(self) -> str:
        """The way taken, in words."""

    @abstractmethod
    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor]:
        """H v, one tensor per primal."""

    @property
    def recorded(self) -> bool:
        """Whether products are run from a record by now."""
        return False

    def block(self, tangents: Sequence[Tensor], width: int) -> Sequence[Tensor]:
        """H applied to `width` vectors, along a leading dimension."""
        columns = [self.product([v[j] for v in tangents]) for j in range(width)]
        return [torch.stack(parts) for parts in zip(*columns, strict=True)]

    def nbytes(self) -> int:
        """Bytes kept beyond the primals."""
        return 0

    def bytes_per_vector(self) -> int:
        """About what a block takes for each of its vectors, beside the vectors themselves."""
        return self.nbytes()

    def report(self, objective: Objective) -> Report:
        """The way taken and what speaks for it."""
        remedies, attempts = tuple(sorted(objective.used)), tuple(self.attempts)
        return Report(self.strategy, attempts, remedies, tuple(self.checks), self.recorded)


class GraphEngine(Engine):
    """The graph of the gradient, kept: a product is one backward pass through it, or a record of one.

    Attributes:
        leaves: Where the graph ends.
        live_gradient: The gradient, with its graph.
    """

    def __init__(
        self,
        leaves: list[Tensor],
        value: Tensor,
        gradients: Sequence[Tensor],
        precision: torch.dtype,
        engine: Engines = "auto",
        hooked: bool = False,
    ) -> None:
        super().__init__(value, gradients)
        self.leaves = leaves
        self.live_gradient = list(gradients)
        noise = partial(_noise, self.value, self.gradient, leaves, precision)
        self._pullback_of = partial(
            Pullback, inputs=leaves, precision=precision, noise=noise, engine=engine, hooked=hooked
        )
        self._pullback = self._pullback_of(self.live_gradient)
        self._pullback.checks, self._pullback.attempts = self.checks, self.attempts
        self._rows: dict[int, Pullback] = {}

    @property
    def strategy(self) -> str:
        return REVERSE + " (graph kept)"

    @property
    def recorded(self) -> bool:
        return self._pullback.recorded

    @property
    def batches(self) -> bool:
        """Whether batched products are right and worth while."""
        return self._pullback.batched is True

    @property
    def hooked(self) -> bool:
        """Whether there are hooks, which are to be called at each backward pass."""
        return self._pullback.hooked

    @property
    def loops(self) -> bool:
        """Whether there are no batched products, or none that are worth while."""
        return self._pullback.batched is False

    @property
    def operations(self) -> int:
        """A number for the operations of the gradient's graph: the same for the same ones."""
        return self._pullback.graph.operations()

    def believe_batches(self) -> None:
        """Take batched products for right: they have been held against something."""
        if self._pullback.batched is None:
            self._pullback.batched = True

    def batch(self, tangents: Sequence[Tensor]) -> Sequence[Tensor] | None:
        """Products by a batched pass that nothing has been held against yet; None where there is none."""
        return self._pullback.unchecked(tangents)

    @classmethod
    def build(
        cls, objective: Objective, primals: Sequence[Tensor], engine: Engines = "auto"
    ) -> GraphEngine | DerivativeError:
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
        built = cls(leaves, value, gradients, objective.precision(leaves), engine, objective.hooked)
        built.custom = bool(facts.custom)
        return built

    @classmethod
    def of(cls, objective: Objective, outcome: Outcome) -> GraphEngine | None:
        """The engine of a gradient that has been differentiated in forward mode; None where it has no graph.

        Its graph is that of forward mode's remedies: it is not known to be right in reverse.
        """
        gradients = outcome.differentiated
        if outcome.facts.stale or not any(g.requires_grad for g in gradients):
            return None
        leaves = list(outcome.leaves)
        precision = objective.precision(leaves)
        built = cls(leaves, outcome.value, gradients, precision, hooked=objective.hooked)
        built.custom = bool(outcome.facts.custom)
        return built

    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor]:
        return self._pullback(tangents)

    def block(self, tangents: Sequence[Tensor], width: int) -> Sequence[Tensor]:
        return self._pullback.block(tangents)

    def rows(self, leaf: int, vectors: Tensor) -> Sequence[Tensor]:
        """For vectors (k, *shape of that leaf): the rows of H that they select or combine, for every leaf.

        Cheaper than `block` with zeros for the other leaves: only this leaf's gradient is pulled back.
        """
        if leaf not in self._rows:
            own = [self.live_gradient[leaf]]
            self._rows[leaf] = self._pullback_of(own, batched=self._pullback.batched, joined=False)
        return self._rows[leaf].block([vectors])

    def nbytes(self) -> int:
        return self._pullback.nbytes

    def bytes_per_vector(self) -> int:
        return self._pullback.bytes_per_vector


def _noise(
    value: Tensor,
    gradient: Sequence[Tensor],
    leaves: Sequence[Tensor],
    precision: torch.dtype,
    tangents: Sequence[Tensor],
) -> float:
    return rounding(value, gradient, leaves, tangents, precision)


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
