"""Arguments that functions of a matrix share: vectors, tolerances, time, and how many vectors to keep."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hvplib.ad.memory import free_bytes, readable
from hvplib.operators.base import Operator

__all__ = ["check_columns", "check_time", "check_tolerances", "memory"]

_SHARE = 0.5  # of the free memory, for the basis
_STEPS = 1000  # by default, at most


def check_columns(B: Tensor) -> None:
    """Raise ValueError where there is nothing to multiply, or it is not finite."""
    if not B.shape[1]:
        raise ValueError("b must have at least one column, got a block of none")
    if not bool(torch.isfinite(B).all()):
        raise ValueError("b must be finite, got NaN or infinity in it; look at where it comes from")


def check_tolerances(rtol: float | None, atol: float, dtype: torch.dtype) -> float:
    """rtol with its default."""
    rtol = torch.finfo(dtype).eps ** 0.5 if rtol is None else rtol
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {tolerance!r}")
    return rtol


def check_time(time_limit: float | None) -> float:
    """Seconds, infinite for None."""
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"time_limit must be positive seconds, got {time_limit}")
    return math.inf if time_limit is None else time_limit


def memory(
    operator: Operator, B: Tensor, max_iter: int | None, reorthogonalize: bool | None
) -> tuple[int, int]:
    """How many steps to make at most, and how many vectors of a column to keep: all, or 0."""
    if max_iter is not None and max_iter < 1:
        raise ValueError(f"max_iter must be at least 1, or None, got {max_iter}")
    n = operator.shape[0]
    steps = min(n, max_iter or _STEPS)
    needed = (steps + 4) * B.numel() * B.element_size()
    budget = int(_SHARE * free_bytes(B.device))
    if reorthogonalize is None:
        reorthogonalize = needed <= budget
    elif reorthogonalize and needed > budget:
        raise MemoryError(
            f"reorthogonalize=True keeps {steps} vectors for each of {B.shape[1]} columns, "
            f"{readable(needed)}; half of what is free on {B.device} is {readable(budget)}; lower max_iter, "
            "or use reorthogonalize=False"
        )
    return (steps, steps) if reorthogonalize else (max_iter or 10 * steps, 0)
