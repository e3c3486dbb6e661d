"""u ↦ Jᵀu through a graph that is kept: one backward pass for a vector, one batched pass for a block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hvplib.ad.graph import contains, graph_bytes
from hvplib.ad.guard import derivative
from hvplib.ad.leaves import ordinary
from hvplib.ad.report import Attempt, Check
from hvplib.ad.select import is_missing_derivative
from hvplib.ad.verify import agreement

__all__ = ["Pullback"]


class Pullback:
    """u ↦ (∂ outputs / ∂ inputs)ᵀ u, as often as wanted.

    Args:
        outputs: Tensors with a graph down to `inputs`; those without one count as constants.
        inputs: Leaves of that graph.
        precision: The coarsest dtype on the way, for the check of the first batch.

    Attributes:
        checks, attempts: What was checked of batched products, or why there are none.
    """

    def __init__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], precision: torch.dtype) -> None:
        self._live = [index for index, output in enumerate(outputs) if output.requires_grad]
        self._outputs = [outputs[index] for index in self._live]
        self._inputs = list(inputs)
        self._precision = precision
        # None: not tried yet. vmap turns convolutions into grouped ones, slower a vector than the loop.
        self._batched: bool | None = False if contains(self._outputs, "ConvolutionBackward") else None
        self.checks: list[Check] = []
        self.attempts: list[Attempt] = []

    @property
    def nbytes(self) -> int:
        """Bytes that the graph keeps beyond its inputs."""
        return graph_bytes(self._outputs, self._inputs)

    def __call__(self, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """One tensor per input, for one tensor per output."""
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self([ordinary(u) for u in cotangents])
        return list(self._pull(*(cotangents[index] for index in self._live)))

    def block(self, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """The same for k vectors at once, along a leading dimension of each tensor."""
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self.block([ordinary(u) for u in cotangents])
        width = cotangents[0].shape[0]
        if not self._outputs:
            return [x.new_zeros((width, *x.shape)) for x in self._inputs]
        if width > 1 and self._batched is not False and (batched := self._try_batched(cotangents)):
            return batched
        single = [self([u[j] for u in cotangents]) for j in range(width)]
        return [torch.stack(parts) for parts in zip(*single, strict=True)]

    def _try_batched(self, cotangents: Sequence[Tensor]) -> list[Tensor] | None:
        """One batched pass; None where an operation has no batching rule, or a wrong one."""
        live = [cotangents[index] for index in self._live]
        result = self._guarded(lambda: list(torch.func.vmap(self._pull)(*live)))
        if result is None or self._batched is not None:
            return result
        single = self([u[0] for u in cotangents])
        first = [r[0] for r in result]
        self.checks.append(agreement(first, single, "batched against single", self._precision))
        self._batched = self.checks[-1].passed is True
        return result if self._batched else None

    def _guarded(self, batched: Callable[[], list[Tensor]]) -> list[Tensor] | None:
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

    def _pull(self, *cotangents: Tensor) -> tuple[Tensor, ...]:
        if not self._outputs:
            return tuple(torch.zeros_like(x) for x in self._inputs)
        products: Sequence[Tensor | None] = torch.autograd.grad(
            self._outputs, self._inputs, cotangents, retain_graph=True, allow_unused=True
        )
        return tuple(
            torch.zeros_like(x) if p is None else p for p, x in zip(products, self._inputs, strict=True)
        )
