"""Dual numbers, and the formulas that torch scripts for them, which are loaded when one is needed."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

__all__ = ["load_forward_formulas", "make_dual", "with_formulas_if_needed"]

_FORMULAS = "torch._decomp.decompositions_for_jvp"
_T = TypeVar("_T")


def make_dual(x: Tensor, tangent: Tensor) -> Tensor:
    """x + ε · tangent at the current level.

    `torch.autograd.forward_ad.make_dual` without loading the formulas first, which takes a fifth of a second
    and few functions need.
    """
    dual: Any = torch._VF._make_dual(x, tangent, level=fwAD._current_level)
    made: Tensor = dual
    return made


def with_formulas_if_needed(compute: Callable[[], _T]) -> _T:
    """`compute()`; once more, with the formulas loaded, where torch misses one."""
    try:
        return compute()
    except NotImplementedError:
        if _FORMULAS in sys.modules:
            raise
    load_forward_formulas()
    return compute()


def load_forward_formulas() -> None:
    """Let torch script its forward-mode decompositions, without the deprecation warning of its own making."""
    if _FORMULAS not in sys.modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            importlib.import_module(_FORMULAS)
