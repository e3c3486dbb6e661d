"""Large constants times single vectors as matrix-vector products, by long columns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.fx as fx
from torch import Tensor

from hvplib.ad.trace.long_matrices import lay_out_for_vectors
from hvplib.ad.trace.replay import pure_record

aten = torch.ops.aten
F64 = torch.float64
MATRICES = {"tall": (5000, 20), "wide": (20, 5000), "tall, turned": (20, 5000), "small": (50, 20)}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def laid_out(compute: Callable[[Tensor], list[Tensor]], x: Tensor) -> fx.GraphModule:
    made = pure_record(compute, [x])
    lay_out_for_vectors(made.graph, made.traits, made.constants)
    return fx.GraphModule(made.constants, made.graph)


def matrix(name: str) -> Tensor:
    value = normal(*MATRICES[name], seed=0)
    return value.t() if "turned" in name else value


def calls(module: fx.GraphModule) -> list[object]:
    return [node.target for node in module.graph.nodes]


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("right", [True, False])
def test_products_agree_and_read_long_columns(name: str, right: bool) -> None:
    a = matrix(name)
    x = normal(a.shape[1], 1, seed=1) if right else normal(1, a.shape[0], seed=1)

    def compute(x: Tensor) -> list[Tensor]:
        return [torch.mm(a, x) if right else torch.mm(x, a)]

    module = laid_out(compute, x)
    (expected,) = compute(x)
    (found,) = module(x)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    if name == "small":
        assert aten.mm.default in calls(module) and aten.mv.default not in calls(module)
        return
    assert aten.mm.default not in calls(module) and aten.mv.default in calls(module)
    (constant,) = (getattr(module, n.target) for n in module.graph.nodes if n.op == "get_attr")
    assert constant.stride(0 if a.shape[0] > a.shape[1] else 1) == 1


def test_one_turned_copy_serves_both_directions() -> None:
    a, x = matrix("tall"), normal(20, 1, seed=1)

    def compute(x: Tensor) -> list[Tensor]:
        return [torch.mm(torch.mm(a, x).tanh().t(), a)]

    module = laid_out(compute, x)
    torch.testing.assert_close(module(x)[0], compute(x)[0], rtol=1e-12, atol=1e-12)
    assert len({n.target for n in module.graph.nodes if n.op == "get_attr"}) == 1


def test_several_vectors_stay_a_product_of_matrices() -> None:
    a = matrix("tall")
    assert aten.mv.default not in calls(laid_out(lambda x: [torch.mm(a, x)], normal(20, 2, seed=1)))
