"""Where the caller stands: inside a torch.func transform, or outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

__all__ = [
    "in_transform",
    "is_wrapped",
    "nothing_special",
    "outside_transforms",
    "unseen",
    "without_fallback",
]

_T = TypeVar("_T")


def without_fallback(compute: Callable[[], _T]) -> _T:
    """`compute()`, where vmap raises for an operation without a batching rule, and does not loop over it."""
    functorch: Any = torch._C._functorch  # the stubs lack these two names
    allowed = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    try:
        return compute()
    finally:
        functorch._set_vmap_fallback_enabled(allowed)


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


def nothing_special() -> bool:
    """Whether torch computes here as it does by default, which is what records are made of and good for.

    Autocast changes what the operations are, anomaly mode looks at what they return; transforms and dual
    numbers want more than numbers.
    """
    return not (
        in_transform()
        or torch._C._is_any_autocast_enabled()
        or torch.is_anomaly_enabled()
        or forward_ad._current_level >= 0
    )


def unseen(run: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """run(*inputs); function modes see as little of it as they see of a backward pass."""
    if not torch._C._len_torch_function_stack():
        return run(*inputs)
    with torch._C.DisableTorchFunction():
        return run(*inputs)
