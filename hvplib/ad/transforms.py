"""Where the caller stands: inside a torch.func transform, or outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._functorch.vmap import lazy_load_decompositions  # type: ignore[attr-defined]
from torch.autograd import forward_ad

__all__ = [
    "in_transform",
    "is_wrapped",
    "mapped",
    "nothing_special",
    "outside_transforms",
    "unseen",
]


def mapped(func: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor]) -> list[Tensor]:
    """`torch.func.vmap(func)(*tensors)`, for a func that returns a sequence of tensors.

    Without what vmap spends on other containers, a quarter of a small backward pass. It raises for an
    operation without a batching rule, and does not loop over it.
    """
    functorch: Any = torch._C._functorch  # the stubs lack most of these names
    lazy_load_decompositions()
    allowed = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    width = tensors[0].shape[0]
    level = functorch._vmap_increment_nesting(width, "error")
    try:
        found = func(*[functorch._add_batch_dim(tensor, 0, level) for tensor in tensors])
        return [functorch._remove_batch_dim(tensor, level, width, 0) for tensor in found]
    finally:
        functorch._vmap_decrement_nesting()
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
