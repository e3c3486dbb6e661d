"""Stop-gradients, recorded at one point and repeated at others.

Autograd differentiates a function whose detached values are constants. A difference of its gradients is
that of the same function only if those values stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["Stops"]


class Stops:
    """What a function takes for constants: passed through, recorded, or replayed in the same order."""

    def __init__(self) -> None:
        self._values: list[Any] | None = None
        self._next: int | None = None
        self._within = False

    def record(self) -> None:
        """From now on, keep the values."""
        self._values, self._next = [], None

    def replay(self) -> None:
        """From now on, repeat the values kept, from the first."""
        self._next = 0

    def forget(self) -> None:
        """From now on, pass everything through."""
        self._values = self._next = None

    def value(
        self, compute: Callable[[], Any], target: Tensor | None = None, *, numbers: bool = False
    ) -> Any:
        """A constant: computed, or as it was when it was recorded.

        Args:
            compute: Gives it, or writes it into `target`.
            target: The tensor written to.
            numbers: Whether a result without tensors (a number) is such a constant too.

        Raises:
            IndexError: The function meets more constants than were recorded.
        """
        if self._values is None or self._within:
            return compute()
        self._within = True
        try:
            result = compute()
        finally:
            self._within = False
        holds_tensor = any(isinstance(leaf, Tensor) for leaf in tree_flatten(result)[0])
        if not numbers and target is None and not holds_tensor:
            return result  # a shape, or a switch of the grad mode
        if self._next is None:
            self._values.append(tree_map(_copied, result if target is None else target))
            return result
        if self._next >= len(self._values):
            raise IndexError("func took another path at a neighbouring point")
        constant = self._values[self._next]
        self._next += 1
        return constant if target is None else target.copy_(constant)


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
