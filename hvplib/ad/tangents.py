"""Tangents of constants, written out as zeros where torch takes longer over zeros that it knows to be such.

In forward mode, torch keeps the tangent of a constant as a tensor without numbers. Sums and products with it
are worked out in Python, for 0.1 to 0.3 ms each: twenty times what they take with numbers, if these are few.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

__all__ = ["ARITHMETIC", "with_tangents"]

ARITHMETIC: frozenset[Any] = frozenset(
    getattr(owner, name)
    for owner in (torch, Tensor)
    for name in ("add", "sub", "subtract", "mul", "multiply", "div", "divide", "true_divide")
)
# Up to so many numbers.
_FEW = 2**14
# For these a Python number and a tensor of the same number give the same bits.
_PRECISE = (torch.float32, torch.float64)


def with_tangents(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The two arguments of a sum, difference, product or quotient; if one is dual, the other is so, too."""
    left, right = args
    if _is_dual(left):
        return left, _dual(right, left)
    return (_dual(left, right), right) if _is_dual(right) else args


def _is_dual(value: Any) -> bool:
    return isinstance(value, Tensor) and _tangent(value) is not None


def _tangent(tensor: Tensor) -> Any:
    unpack: Any = torch._VF._unpack_dual
    return unpack(tensor, level=fwAD._current_level)[1]


def _dual(value: Any, other: Tensor) -> Any:
    """The value with a tangent of zeros, if it has none and that is worth while."""
    if isinstance(value, Tensor):
        constant = value if _is_small_constant(value) and _tangent(value) is None else None
    elif isinstance(value, int | float) and not isinstance(value, bool) and other.dtype in _PRECISE:
        constant = torch.full((), value, dtype=other.dtype, device=other.device)
    else:
        constant = None
    if constant is None:
        return value
    make: Any = torch._VF._make_dual
    return make(constant, torch.zeros_like(constant), level=fwAD._current_level)


def _is_small_constant(tensor: Tensor) -> bool:
    plain = tensor.layout == torch.strided and tensor.is_contiguous() and not tensor.is_inference()
    return plain and tensor.is_floating_point() and tensor.numel() <= _FEW and not tensor.requires_grad
