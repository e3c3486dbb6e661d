"""What a minimisation problem is: a function of one float64 vector, a start, and what is known of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Minimisation", "vector"]


@dataclass(frozen=True)
class Minimisation:
    """Minimise func(x) from x0.

    Attributes:
        name: The name that the problem is known by.
        func: x (n,) -> f(x), a tensor without axes, in plain operations that torch differentiates many times.
        x0: The standard start (n,), float64.
        minimum: The value f* that the start leads to; -inf for a function that is unbounded below; None where
            nobody knows.
        start_value: f(x0) as published, None where no publication gives it.
        source: Where the definition and the numbers come from.
    """

    name: str
    func: Callable[[Tensor], Tensor]
    x0: Tensor
    minimum: float | None
    source: str
    start_value: float | None = None

    @property
    def size(self) -> int:
        """The number of unknowns."""
        return self.x0.numel()


def vector(*values: float) -> Tensor:
    """Return a float64 vector of these numbers."""
    return torch.tensor(values, dtype=torch.float64)
