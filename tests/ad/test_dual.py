"""Dual numbers without the formulas that torch scripts, until one is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.autograd.forward_ad as fwAD

from hvplib.ad.dual import make_dual, with_formulas_if_needed, without_compiler

PROGRAM = """
import sys, torch, hvplib
FORMULAS = "torch._decomp.decompositions_for_jvp"
norm = torch.nn.LayerNorm(3, dtype=torch.float64)
func = lambda x: (norm(x) ** 3).sum()
generator = torch.Generator().manual_seed(0)
x, v = torch.randn(2, 2, 3, dtype=torch.float64, generator=generator)
assert FORMULAS not in sys.modules
calls = []
def counted(x):
    calls.append(1)
    return func(x)
product = hvplib.hvp(counted, x, v, strategy="forward-over-reverse")
assert FORMULAS in sys.modules and len(calls) == 2, len(calls)
hvplib.hvp(counted, x, v, strategy="forward-over-reverse")
assert len(calls) == 3
right = torch.autograd.functional.vhp(func, x, v)[1]
assert (product - right).norm() <= 1e-12 * right.norm(), (product, right)
"""


def test_formulas_are_loaded_where_one_is_missing_and_the_product_is_right() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_what_is_missing_for_good_is_raised_once_the_formulas_are_there() -> None:
    calls = []

    def compute() -> None:
        calls.append(1)
        raise NotImplementedError("no such thing")

    for _ in range(2):
        calls.clear()
        with pytest.raises(NotImplementedError, match="no such thing"):
            with_formulas_if_needed(compute)
    assert calls == [1]  # the second time there is nothing left to load


def test_dual_is_that_of_torch() -> None:
    x, v = torch.tensor([2.0]), torch.tensor([3.0])
    with fwAD.dual_level():
        primal, tangent = fwAD.unpack_dual(make_dual(x, v) ** 2)
    assert primal.tolist() == [4.0] and tangent is not None and tangent.tolist() == [12.0]


def test_what_torch_is_told_is_taken_back() -> None:
    from hvplib.ad.dual import _zero_arithmetic

    assert len(_zero_arithmetic()) >= 3
    before = [hasattr(function, "__dynamo_disable") for function in _zero_arithmetic()]
    with pytest.raises(KeyError), without_compiler():
        raise KeyError
    assert [hasattr(function, "__dynamo_disable") for function in _zero_arithmetic()] == before


def test_compiling_afterwards_works() -> None:
    """In a fresh process: products first, then a compiled function of the same operations."""
    program = """
import torch, hvplib
x, y = torch.ones(3), torch.zeros(3)
func = lambda x: ((x - y) ** 2 * y.exp()).sum()
assert hvplib.hvp(func, x, x).tolist() == [2.0] * 3
compiled = torch.compile(func, backend="eager", fullgraph=True)
assert compiled(x).item() == 3.0
assert hvplib.hvp(compiled, x, x).tolist() == [2.0] * 3
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
