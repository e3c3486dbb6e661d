"""Dual numbers, and the formulas that torch scripts for them, which are loaded when one is needed."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
import torch._compile
import torch.autograd.forward_ad as fwAD
from torch import Tensor

__all__ = ["load_forward_formulas", "make_dual", "with_formulas_if_needed", "without_compiler"]

_STAYS_OUT = "__dynamo_disable"  # where torch keeps what stands in for a function under its compiler
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
    """`compute()`, which uses dual numbers; once more, with the formulas loaded, where torch misses one."""
    with without_compiler():
        try:
            return compute()
        except NotImplementedError:
            if _FORMULAS in sys.modules:
                raise
        load_forward_formulas()
        return compute()


@contextmanager
def without_compiler() -> Iterator[None]:
    """Forward mode without torch's compiler, which takes a second to import, unless it is there already.

    A tangent that is zero goes through operations written in Python, which import the compiler to tell it to
    stay out of them. While it is not there, they are told that it does.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    told = [function for function in _zero_arithmetic() if not hasattr(function, _STAYS_OUT)]
    for function in told:
        setattr(function, _STAYS_OUT, function)
    try:
        yield
    finally:
        for function in told:
            delattr(function, _STAYS_OUT)


@cache
def _zero_arithmetic() -> list[Any]:
    """The functions behind the operations that torch uses for tangents that are zero."""
    refs: Any = importlib.import_module("torch._refs")
    found = []
    for name in ("add", "sub", "mul", "div", "true_divide"):
        function = getattr(refs, name, None)
        while function is not None:
            if function.__code__.co_filename == torch._compile.__file__:
                cells = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
                found.append(cells["fn"].cell_contents)
            function = getattr(function, "__wrapped__", None)
    return found


def load_forward_formulas() -> None:
    """Let torch script its forward-mode decompositions, without the deprecation warning of its own making."""
    if _FORMULAS not in sys.modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            importlib.import_module(_FORMULAS)
