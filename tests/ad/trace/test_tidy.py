from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.fx as fx
from torch import Tensor

from hvplib.ad.trace.tidy import merge_equal, tidy
from tests.ad.problems import normal
from tests.ad.trace.programs import calls, made, run

aten: Any = torch.ops.aten
X, Y, W = normal(4, 3, seed=1), normal(4, 3, seed=2), normal(4, 3, seed=3)


def tidied(compute: Callable[..., list[Tensor]], *inputs: Tensor) -> Any:
    result = made(compute, *inputs)
    tidy(result.graph, result.traits, result.constants)
    return result


def test_equal_computations_are_one() -> None:
    result = tidied(lambda x: [x.exp() * x, x.exp() + 1.0, (x.exp() * x).sin()], X)
    assert calls(result) == [aten.exp.default, aten.mul.Tensor, aten.add.Tensor, aten.sin.default]
    assert torch.equal(run(result, Y)[2], (Y.exp() * Y).sin())


ONE_ONLY: list[tuple[str, Any, Any]] = [
    ("integer and float", 2, 2.0),
    ("bool and integer", True, 1),
    ("zeros of both signs", 0.0, -0.0),
    ("next numbers", 0.1, 0.1 + 2**-56),
]


@pytest.mark.parametrize(("left", "right"), [pytest.param(*row[1:], id=row[0]) for row in ONE_ONLY])
def test_what_only_looks_equal_stays(left: Any, right: Any) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    nodes = [graph.call_function(aten.pow.Tensor_Scalar, (x, e)) for e in (left, right)]
    graph.output(tuple(nodes))
    merge_equal(graph)
    assert len([n for n in graph.nodes if n.op == "call_function"]) == 2


def test_keywords_and_nan_are_compared() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    full = [
        graph.call_function(aten.full_like.default, (x, torch.nan), {"dtype": d}) for d in (None, None, 1)
    ]
    rest = [graph.call_function(aten.add.Tensor, (x, x), {"alpha": a}) for a in (2, 2.0, 2)]
    graph.output((*full, *rest))
    merge_equal(graph)
    assert next(n.args for n in graph.nodes if n.op == "output")[0] == (
        full[0],
        full[0],
        full[2],
        rest[0],
        rest[1],
        rest[0],
    )


def test_random_numbers_are_drawn_each_time() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(tuple(graph.call_function(aten.rand_like.default, (x,)) for _ in range(2)))
    merge_equal(graph)
    a, b = fx.GraphModule({}, graph)(X)
    assert not torch.equal(a, b)


def test_what_leads_nowhere_goes() -> None:
    def compute(x: Tensor) -> list[Tensor]:
        (x * W.cos()).sort()
        return [x * 2.0]

    result = tidied(compute, X)
    assert calls(result) == [aten.mul.Tensor]
    assert len([n for n in result.graph.nodes if n.op == "get_attr"]) == 0


def test_all_passes_keep_every_bit() -> None:
    row = normal(3, seed=5)

    def compute(x: Tensor) -> list[Tensor]:
        y = (-x) * W + (-(x * W)) + (x * 2.0) * W.cos()
        z = x.sum(0, True).expand(4, 3).clone() * W - row
        return [y, z.view(12).view(3, 4).t().t(), (x.t().t() * 0.5 * row).sum(1, True).view(4)]

    result = made(compute, X)
    before = len(calls(result))
    tidy(result.graph, result.traits, result.constants)
    assert len(calls(result)) < before
    for seed in range(5):
        v = normal(4, 3, seed=10 + seed)
        for a, b in zip(run(result, v), compute(v), strict=True):
            assert torch.equal(a, b) and a.stride() == b.stride()
