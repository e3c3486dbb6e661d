from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.ad.trace import constants
from hvplib.ad.trace.constants import fold_constants
from hvplib.ad.trace.recorder import Record
from hvplib.ad.trace.replay import Program
from tests.ad.problems import normal
from tests.ad.trace.programs import agree, calls, made, run

aten: Any = torch.ops.aten
X, W = normal(3, 4, seed=1), normal(3, 4, seed=3)


def folded(compute: Callable[[Tensor], Tensor]) -> Record:
    """The graph without what is constant, which gives the same bits for awkward numbers too."""
    result = made(lambda x: [compute(x)], X)
    fold_constants(result.graph, result.traits, result.constants)
    result.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    other = normal(3, 4, seed=40)
    other.view(-1)[:5] = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan])
    assert agree(run(result, other), [compute(other)])
    return result


FOLDS: dict[str, tuple[Callable[[Tensor], Tensor], list[Any]]] = {
    "ones": (lambda x: torch.ones_like(x), []),
    "ones of a number, divided and expanded": (
        lambda x: x * (torch.ones_like(x.sum()).expand(3, 4) / 12),
        [aten.mul.Tensor],
    ),
    "the power 0": (lambda x: x**0.0 + x, [aten.add.Tensor]),
    "the power 1": (lambda x: aten.pow.Tensor_Scalar(x, 1.0).sin(), [aten.sin.default]),
    "times 1": (lambda x: aten.mul.Scalar(x, 1.0).sin(), [aten.sin.default]),
    "times ones": (lambda x: (x * torch.ones_like(x)).sin(), [aten.sin.default]),
    "ones times": (lambda x: (torch.full_like(x, 1.0) * x).sin(), [aten.sin.default]),
    "derivative of tanh": (lambda x: aten.tanh_backward(x, W.tanh()), [aten.mul.Tensor]),
    "derivative of tanh at 1": (lambda x: aten.tanh_backward(x, W.sign()), [aten.mul.Tensor]),
    "derivative of a square": (lambda x: x**0.0 * 1.0 * x.sin(), [aten.sin.default]),
}


@pytest.mark.parametrize("name", FOLDS)
def test_what_is_known_is_folded(name: str) -> None:
    compute, left = FOLDS[name]
    assert calls(folded(compute)) == left


STAYS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "another factor": (lambda x: aten.mul.Scalar(x, 2.0).sin(), 2),
    "another power": (lambda x: x**2.0, 1),
    "zeros times": (lambda x: torch.zeros_like(x) * x, 1),  # 0 · ∞
    "tanh of what moves": (lambda x: aten.tanh_backward(x, x), 1),
    "tanh, the other way round": (lambda x: aten.tanh_backward(W, x), 1),
    "tanh of narrow numbers": (lambda x: aten.tanh_backward(x.bfloat16(), W.bfloat16()), 2),
    "tanh of another layout": (lambda x: aten.tanh_backward(x.t()[1:].t(), W[:, 1:]), 4),
    "ones of a larger shape": (lambda x: torch.ones(2, 3, 4, dtype=x.dtype) * x, 1),
    "ones that change the dtype": (lambda x: x.float() * torch.ones_like(x), 2),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_depends_on_numbers_stays(name: str) -> None:
    compute, left = STAYS[name]
    assert len(calls(folded(compute))) == left


def test_large_constants_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "_NUMBERS", 11)
    assert len(calls(folded(lambda x: torch.ones_like(x) + x))) == 2
    assert len(calls(folded(lambda x: aten.mul.Scalar(x, 1) + x))) == 1  # makes none
    assert len(calls(folded(lambda x: torch.ones_like(x[0]) + x))) == 1


@pytest.mark.parametrize("shape", [(1,), (7,), (5, 7), (33,), (64, 32), (2, 3, 11)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [None, 3])
def test_the_factor_of_tanh_is_the_kernels_own(
    shape: tuple[int, ...], dtype: torch.dtype, width: int | None
) -> None:
    y = normal(*shape, seed=5).to(dtype).tanh()
    x = normal(*(() if width is None else (width,)), *shape, seed=6).to(dtype)
    program = Program(lambda x: [aten.tanh_backward(x, y)], [x])
    assert agree(program.run(-x), [aten.tanh_backward(-x, y)])
