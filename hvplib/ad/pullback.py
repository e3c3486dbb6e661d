"""u ↦ Jᵀu through a graph that is kept: one backward pass for a vector, one batched pass for a block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property

import torch
from torch import Tensor

from hvplib.ad.backward import materialized, pulled_back
from hvplib.ad.batched_products import BatchedProducts
from hvplib.ad.graph import Graph
from hvplib.ad.guard import derivative
from hvplib.ad.inputs import Engines
from hvplib.ad.leaves import ordinary
from hvplib.ad.report import Attempt, Check
from hvplib.ad.select import is_missing_derivative
from hvplib.ad.trace.replay import Replay
from hvplib.ad.transforms import mapped
from hvplib.ad.verify import agreement

__all__ = ["Pullback"]

# Widths of blocks that programs are kept for.
_WIDTHS = 4


class Pullback:
    """u ↦ (∂ outputs / ∂ inputs)ᵀ u, as often as wanted.

    Often wanted, it is recorded, and gives the same bits by a program (see `Replay`).

    Args:
        outputs: Tensors with a graph down to `inputs`; those without one count as constants.
        inputs: Leaves of that graph.
        precision: The coarsest dtype on the way, for the check of the first batch.
        noise: From a vector to the size of what rounding alone may make of a product that should be zero.
        batched: Whether batched products are right and worth while, where that is known.
        engine: How it is recorded; see `Replay`.
        hooked: Whether hooks are to be called at each backward pass.
        joined: Whether blocks look out for products with one matrix (see `BatchedProducts`), which takes time
            for each operation, unless it is recorded.

    Attributes:
        graph: What is behind the outputs.
        hooked: As given.
        batched: As given; None as long as it is not known.
        checks, attempts: What was checked of batched products, or why there are none.
    """

    def __init__(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        precision: torch.dtype,
        *,
        noise: Callable[[Sequence[Tensor]], float] | None = None,
        batched: bool | None = None,
        engine: Engines = "auto",
        hooked: bool = False,
        joined: bool = True,
    ) -> None:
        self._live = [index for index, output in enumerate(outputs) if output.requires_grad]
        self._outputs = [outputs[index] for index in self._live]
        self._inputs = list(inputs)
        self.graph = Graph(self._outputs)
        self._precision = precision
        self._noise = noise
        self.hooked = hooked
        self._joined = joined
        self._engine = engine
        self._blocks: dict[int, Replay] = {}
        # vmap turns convolutions into grouped ones, slower a vector than the loop. (A clock must not decide:
        # batched and single products differ in the last bit.)
        self.batched = False if self.graph.contains("ConvolutionBackward") else batched
        self.checks: list[Check] = []
        self.attempts: list[Attempt] = []

    @property
    def nbytes(self) -> int:
        """Bytes that the graph, and what is recorded of it, keep beyond the inputs."""
        replays = [*self._blocks.values(), *([self._single] if "_single" in vars(self) else [])]
        recorded = [x for replay in replays if replay.program for x in replay.program.constants]
        return self.graph.nbytes(self._inputs, recorded)

    @cached_property
    def bytes_per_vector(self) -> int:
        """About what a block takes for each of its vectors."""
        return self.graph.moving_bytes(self._inputs)

    @property
    def recorded(self) -> bool:
        """Whether products with a single vector are run from a record."""
        return "_single" in vars(self) and self._single.program is not None

    def __call__(self, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """One tensor per input, for one tensor per output."""
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self([ordinary(u) for u in cotangents])
        return list(self._single(self._pull, [cotangents[index] for index in self._live]))

    def block(self, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """The same for k vectors at once, along a leading dimension of each tensor."""
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self.block([ordinary(u) for u in cotangents])
        width = cotangents[0].shape[0]
        if not self._outputs:
            return [x.new_zeros((width, *x.shape)) for x in self._inputs]
        if width > 1 and self.batched is not False and (batched := self._try_batched(cotangents, width)):
            return batched
        single = [self([u[j] for u in cotangents]) for j in range(width)]
        return [torch.stack(parts) for parts in zip(*single, strict=True)]

    def unchecked(self, cotangents: Sequence[Tensor]) -> list[Tensor] | None:
        """A batched pass of which nothing is known yet; None where an operation has no batching rule.

        Not recorded. It is to be called where a derivative is being taken already.
        """
        if self.batched is False or not self._outputs:
            return None
        try:
            return mapped(self._pull, [cotangents[index] for index in self._live])
        except RuntimeError as error:
            if not is_missing_derivative(error):
                raise
            self.batched = False
            self.attempts.append(Attempt("batched products", str(error).splitlines()[0]))
            return None

    def _try_batched(self, cotangents: Sequence[Tensor], width: int) -> list[Tensor] | None:
        """One batched pass; None where an operation has no batching rule, or a wrong one."""
        live = [cotangents[index] for index in self._live]
        try:
            result = list(self._replay(width)(self._pull_block, live))
        except RuntimeError as error:
            if not is_missing_derivative(error):
                raise
            self.batched = False
            self.attempts.append(Attempt("batched products", str(error).splitlines()[0]))
            return None
        if self.batched is not None:
            return result
        first = [u[0] for u in cotangents]
        noise = self._noise(first) if self._noise is not None else 0.0
        check = agreement(
            [r[0] for r in result], self(first), "batched against single", self._precision, noise
        )
        self.checks.append(check)
        self.batched = check.passed is True
        return result if self.batched else None

    def _replay(self, width: int) -> Replay:
        """What records products with blocks of this width."""
        replay = self._blocks.get(width)
        if replay is None:
            known = len(self._blocks) < _WIDTHS
            replay = Replay(self._operations if known else None, self._engine)
            if known:
                self._blocks[width] = replay
        return replay

    @cached_property
    def _single(self) -> Replay:
        return Replay(self._operations, self._engine)

    @cached_property
    def _operations(self) -> int | None:
        """How many operations there are to record, about; None if they must not be."""
        facts = self.graph.survey()
        return 2 * facts.operations if self._outputs and not (facts.custom or self.hooked) else None

    def _pull_block(self, *cotangents: Tensor) -> Sequence[Tensor]:
        with BatchedProducts() if self._joined else nullcontext():
            return self._mapped(*cotangents)

    def _mapped(self, *cotangents: Tensor) -> Sequence[Tensor]:
        # A loop over single operations would be slower than one over products.
        with derivative():
            return mapped(self._pull, cotangents)

    def _pull(self, *cotangents: Tensor) -> tuple[Tensor, ...]:
        if not self._outputs:
            return tuple(torch.zeros_like(x) for x in self._inputs)
        pulled = pulled_back(self._outputs, self._inputs, cotangents, retain_graph=True)
        return materialized(pulled, self._inputs)
