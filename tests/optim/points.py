"""Points of functions for the tests of what makes steps from them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hvplib import HessianOperator
from hvplib.interrupt import Interrupt
from hvplib.optim.evaluation import Limits, Objective

__all__ = ["objective", "quadratic", "rosenbrock"]

F64 = torch.float64


def objective(func: Callable[[Tensor], Tensor], *x: float, dtype: torch.dtype = F64) -> Objective:
    """The function from a start."""
    operator = HessianOperator(func, torch.tensor(x, dtype=dtype))
    return Objective(operator, Limits(), Interrupt())


def quadratic(H: Tensor, gradient: Tensor) -> Objective:
    """½ xᵀH x + gᵀx, from zero."""
    operator = HessianOperator(lambda x: x @ H @ x / 2 + gradient @ x, torch.zeros_like(gradient))
    return Objective(operator, Limits(), Interrupt())


def rosenbrock(x: Tensor) -> Tensor:
    """The sum over neighbours."""
    return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()
