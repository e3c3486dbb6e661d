from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.ad.trace.recorder import Record
from hvplib.ad.trace.views import _broadcast, broadcasts, simplify_views
from tests.ad.problems import normal
from tests.ad.trace.programs import agree, calls, made, run

aten: Any = torch.ops.aten
X, W = normal(3, 4, seed=1), normal(3, 4, seed=3)
ROW, SCALAR = normal(4, seed=5), normal(seed=6)


def simplified(compute: Callable[..., list[Tensor]], *inputs: Tensor) -> Record:
    result = made(compute, *inputs)
    simplify_views(result.graph, result.traits)
    broadcasts(result.graph, result.traits)
    result.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    others = [normal(*x.shape, seed=40).to(x.dtype) for x in inputs]
    assert agree(run(result, *others), compute(*others))
    return result


def in_rows(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


GOES: dict[str, tuple[Callable[[Tensor], Tensor], list[Any]]] = {
    "same shape": (lambda x: x.view(3, 4) * 2, [aten.mul.Tensor]),
    "there and back": (lambda x: x.t().t() * 2, [aten.mul.Tensor]),
    "by other names": (lambda x: x.t().transpose(-1, 0) * 2, [aten.mul.Tensor]),
    "expanded to what it is": (lambda x: x.expand(3, 4) * 2, [aten.mul.Tensor]),
    "view of a view": (lambda x: x.view(12).view(2, 6) * 2, [aten.view.default, aten.mul.Tensor]),
    "summed": (lambda x: x.sum(0, True).view(4) * 2, [aten.sum.dim_IntList, aten.mul.Tensor]),
    "broadcast": (lambda x: x * ROW.expand(3, 4), [aten.mul.Tensor]),
    "copied": (lambda x: W * in_rows(x.view(4, 3).t()), [aten.view.default, aten.t.default, aten.mul.Tensor]),
    "expanded and copied": (
        lambda x: W + x.sum(0).expand(3, 4).clone(),
        [aten.sum.dim_IntList, aten.add.Tensor],
    ),
    "in the first place": (lambda x: x.sum(0).expand(3, 4) * W, [aten.sum.dim_IntList, aten.mul.Tensor]),
}


@pytest.mark.parametrize("name", GOES)
def test_what_changes_nothing_goes(name: str) -> None:
    compute, left = GOES[name]
    assert calls(simplified(lambda x: [compute(x)], X)) == left


STAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed once": lambda x: x.t() * 2,
    "a sum with its dimension": lambda x: x.sum(0, True) * 2,
    "a sum of everything": lambda x: x[:1, :1].sum([], True).view(1, 1) * 2,
    "a sum in another dtype": lambda x: x.sum(0, True, dtype=torch.float32).view(4) * 2,
    "a sum seen twice": lambda x: (lambda s: s.view(4) * s)(x.sum(0, True)),
    "a number's transpose": lambda x: x.sum().t().t() * 2,
    "a copy in other order, first": lambda x: in_rows(x.view(4, 3).t()) * W,
    "nothing else of full size": lambda x: x.sum(0).expand(3, 4) * ROW.expand(3, 4),
    "full size in other order": lambda x: x.sum(1).expand(4, 3).t().clone() * W.t().contiguous().t(),
    "with a factor alpha": lambda x: torch.add(W, x.view(4, 3).t().clone(), alpha=0.3),
    "of another dtype": lambda x: W.float() * x.sum().expand(3, 4),
    "more than one rounding": lambda x: aten.gelu_backward(x.t().contiguous().t(), W.t().contiguous().t()),
}


@pytest.mark.parametrize("name", STAYS)
def test_bits_and_strides_are_kept(name: str) -> None:
    """That is checked for each; what is named here has been simplified wrongly by weaker rules."""
    simplified(lambda x: [STAYS[name](x)], X)


def test_a_factor_alpha_and_several_roundings_are_left_alone() -> None:
    x = normal(64, 65, seed=7)
    w = normal(64, 65, seed=8)
    added = simplified(
        lambda v: [torch.add(w, in_rows(v.view(65, 64).t()), alpha=0.3)],
        x,
    )
    assert aten.clone.default in calls(added)
    gelu = simplified(lambda v: [aten.gelu_backward(in_rows(v.view(65, 64).t()), w)], x)
    assert aten.clone.default in calls(gelu)


@pytest.mark.parametrize(
    "shapes", [[()], [(), (3,)], [(3, 1), (4,)], [(2, 1, 4), (3, 1), ()], [(0, 1), (1, 4)], [(1,), (1, 1)]]
)
def test_shapes_are_broadcast_as_torch_does(shapes: list[tuple[int, ...]]) -> None:
    assert _broadcast([torch.Size(shape) for shape in shapes]) == torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
