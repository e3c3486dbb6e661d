"""Tensors that outlive a function and that it writes to: buffers, counters, its own argument."""

from __future__ import annotations

import sys
from collections.abc import Collection

import torch
from torch import Tensor

from hvplib.ad.transforms import is_wrapped, outside_transforms

__all__ = ["Writes"]


class Writes:
    """A record of what tensors held before a function wrote to them, to undo it."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[Tensor, Tensor, int]] = {}

    @property
    def noted(self) -> bool:
        """Whether there is anything to undo."""
        return bool(self._before)

    def note(self, tensor: Tensor) -> None:
        """The function is about to write into this tensor, which may be the user's."""
        while tensor._is_view() and isinstance(tensor._base, Tensor):
            tensor = tensor._base
        if tensor.grad_fn is not None or id(tensor) in self._before or is_wrapped(tensor):
            return
        with outside_transforms():
            self._before[id(tensor)] = tensor, tensor.detach().clone(), _version(tensor)

    def undo(self, keep: Collection[int] = ()) -> None:
        """Put back what was written, except into tensors that the function made itself (or ids in `keep`)."""
        if not self._before:
            return
        with torch.no_grad(), outside_transforms():
            while self._before:
                key, (tensor, before, version) = self._before.popitem()
                # A tensor that the function made is held by nothing but this frame by now, and must keep its
                # value: the graph may refer to it. So may it where nothing was written after all, as by
                # `requires_grad_`: to put the same value back would count as a write.
                held = sys.getrefcount(tensor) > _REFERENCES_OF_OWN and key not in keep
                if held and (version < 0 or _version(tensor) != version):
                    tensor.copy_(before)


def _version(tensor: Tensor) -> int:
    """How often the tensor was written to; −1 where that is not counted."""
    return -1 if tensor.is_inference() else tensor._version


def _probe_references() -> int:
    """The reference count, as `undo` sees it, of a tensor that only the record holds."""
    record = {0: (torch.empty(0), torch.empty(0), 0)}
    _key, (tensor, _before, _version) = record.popitem()
    return sys.getrefcount(tensor)


_REFERENCES_OF_OWN = _probe_references()
