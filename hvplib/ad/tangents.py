"""Tangents of constants, written out as zeros where torch takes longer over zeros that it knows to be such.

In forward mode, torch keeps the tangent of a constant as a tensor without numbers. Sums and products with it
are worked out in Python, for 0.1 to 0.3 ms each: twenty times what they take with numbers, if these are few.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from hvplib.ad.transforms import in_transform

__all__ = ["ARITHMETIC", "arithmetic", "with_tangents"]

aten: Any = torch.ops.aten

# With the overloads for a number, which has no tangent: torch itself makes a tensor of it.
ARITHMETIC: dict[Any, Any] = {
    getattr(owner, name): overload
    for owner in (torch, Tensor)
    for overload, names in (
        (aten.add.Scalar, ("add",)),
        (aten.sub.Scalar, ("sub", "subtract")),
        (aten.mul.Scalar, ("mul", "multiply")),
        (aten.div.Scalar, ("div", "divide", "true_divide")),
    )
    for name in names
}
# Up to so many numbers.
_FEW = 2**14
# For these a Python number and a tensor of the same number give the same bits.
_PRECISE = (torch.float32, torch.float64)


def arithmetic(func: Any, args: tuple[Any, ...]) -> Any:
    """func(*args), of two arguments, in forward mode."""
    if not in_transform():
        return func(*with_tangents(args))
    # What is dual cannot be told here; and a tangent that is written out costs more than torch's own zeros.
    if isinstance(args[0], Tensor) and _is_number(args[1]):
        return ARITHMETIC[func](*args)
    return func(*args)


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
    elif _is_number(value) and other.dtype in _PRECISE:
        constant = torch.full((), value, dtype=other.dtype, device=other.device)
    else:
        constant = None
    if constant is None:
        return value
    make: Any = torch._VF._make_dual
    return make(constant, torch.zeros_like(constant), level=fwAD._current_level)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_small_constant(tensor: Tensor) -> bool:
    plain = tensor.layout == torch.strided and tensor.is_contiguous() and not tensor.is_inference()
    return plain and tensor.is_floating_point() and tensor.numel() <= _FEW and not tensor.requires_grad
