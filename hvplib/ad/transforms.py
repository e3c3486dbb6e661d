"""Where the caller stands: inside a torch.func transform, or outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

__all__ = ["in_transform", "is_wrapped", "outside_transforms"]


def in_transform() -> bool:
    """Whether a torch.func transform (vmap, grad, jvp, ...) is in force around the caller."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_wrapped(tensor: Tensor) -> bool:
    """Whether this tensor belongs to a transform, and not to the code around it."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


@contextmanager
def outside_transforms() -> Iterator[None]:
    """Run what concerns captured tensors only (a counter, a buffer) as if no transform were in force."""
    if not in_transform():
        yield
        return
    with temporarily_clear_interpreter_stack():
        yield
