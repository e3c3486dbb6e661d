"""What a minimisation starts from, and the way back to what the user gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["started"]

_EMPTY = "x0 must hold at least one number, got none; there is nothing to minimise over"


def started(x0: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A pytree of tensors, and what turns a pytree like it into what x0 is.

    Arrays, and numbers and lists of them, are taken as SciPy does: in float64 unless they are float32.

    Raises:
        TypeError: x0 is none of these.
        ValueError: x0 is empty, or its tensors are not of real floating point numbers.
    """
    tensors = [leaf for leaf in tree_leaves(x0) if isinstance(leaf, Tensor)]
    if tensors:
        _check(tensors)
        return x0, lambda x: x
    array = np.asarray(x0)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"x0 must be a tensor, a pytree of tensors, or an array of real numbers, got {type(x0).__name__}"
            f" of dtype {array.dtype}"
        )
    if not array.size:
        raise ValueError(_EMPTY)
    single = array.dtype in (np.float32, np.float16)
    dtype = torch.float32 if single else torch.float64
    return torch.tensor(array, dtype=dtype), lambda x: x.cpu().numpy()


def _check(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if not tensor.dtype.is_floating_point:
            remedy = "split it into real and imaginary parts" if tensor.is_complex() else "give x0.double()"
            raise ValueError(f"x0 must be of real floating point numbers, got {tensor.dtype}; {remedy}")
    if not any(tensor.numel() for tensor in tensors):
        raise ValueError(_EMPTY)
