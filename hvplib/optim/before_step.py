"""What a step of an optimizer leaves as it was if it comes to nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["BeforeStep", "put"]


class BeforeStep:
    """The parameters before a step, and their `.grad`, which no step changes.

    Generators and buffers are seen to by the session of the closure.

    Attributes:
        values: Copies of the parameters.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._params = params
        self.values = [p.detach().clone() for p in params]
        self._grads = [(p.grad, None if p.grad is None else p.grad.clone()) for p in params]
        self._versions = self._now()

    def watched(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, which now raises RuntimeError where it writes into `.grad`."""

        def called() -> Any:
            result = closure()
            if self._now() != self._versions:
                raise RuntimeError(
                    "closure has changed .grad of the parameters; it must return the loss without calling "
                    "backward(): NewtonCG differentiates it itself"
                )
            return result

        return called

    def restore(self) -> None:
        """Put everything back, bit for bit."""
        put(self._params, self.values)
        with torch.no_grad():
            for p, (grad, value) in zip(self._params, self._grads, strict=True):
                if grad is not None and value is not None:
                    grad.copy_(value)
                p.grad = grad

    def _now(self) -> list[tuple[int, int]]:
        # `.grad` makes its Python object anew where nobody holds it: the memory tells it again.
        with torch._C.DisableTorchFunction():  # the remedies refuse to read it inside a closure
            grads = [p.grad for p in self._params]
        return [(0, 0) if g is None else (g.data_ptr(), g._version) for g in grads]


def put(params: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write values into the parameters."""
    with torch.no_grad():
        for p, x in zip(params, values, strict=True):
            p.copy_(x)
