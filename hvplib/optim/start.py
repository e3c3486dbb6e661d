"""What a minimisation starts from, and the way back to what the user gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["started"]


def started(x0: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A pytree of tensors, and what turns a pytree like it into what x0 is.

    Arrays, and numbers and lists of them, are taken as SciPy does: in float64 unless they are float32.

    Raises:
        TypeError: x0 is none of these.
    """
    if any(isinstance(leaf, Tensor) for leaf in tree_leaves(x0)):
        return x0, lambda x: x
    array = np.asarray(x0)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"x0 must be a tensor, a pytree of tensors, or an array of real numbers, got {type(x0).__name__}"
            f" of dtype {array.dtype}"
        )
    single = array.dtype in (np.float32, np.float16)
    dtype = torch.float32 if single else torch.float64
    return torch.tensor(array, dtype=dtype), lambda x: x.cpu().numpy()
