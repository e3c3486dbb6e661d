from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.ad.trace.exact import fold_signs_and_powers_of_two
from hvplib.ad.trace.recorder import Record
from tests.ad.problems import normal
from tests.ad.trace.programs import agree, calls, made, run

aten: Any = torch.ops.aten
X, W = normal(3, 4, seed=1), normal(3, 4, seed=3)


def folded(compute: Callable[..., list[Tensor]], *inputs: Tensor) -> Record:
    result = made(compute, *inputs)
    fold_signs_and_powers_of_two(result.graph, result.traits, result.constants)
    result.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    others = [normal(*x.shape, seed=40).to(x.dtype) for x in inputs]
    others[0].view(-1)[:2] = torch.tensor([0.0, -0.0])
    assert agree(run(result, *others), compute(*others))
    return result


FOLDS: dict[str, tuple[Callable[[Tensor], Tensor], list[Any]]] = {
    "difference": (lambda x: x + (-(x * x)), [aten.mul.Tensor, aten.sub.Tensor]),
    "negated before": (lambda x: (-x) * W, [aten.mul.Tensor]),
    "negated after": (lambda x: -(x * W), [aten.mul.Tensor]),
    "the constant first": (lambda x: W * (-x), [aten.mul.Tensor]),
    "doubled before": (lambda x: aten.mul.Scalar(x, 2) * W, [aten.mul.Tensor]),
    "negated twice and doubled": (lambda x: -aten.mul.Scalar(-x, 2), [aten.mul.Scalar]),
    "halved and negated": (lambda x: -aten.mul.Scalar(aten.mul.Scalar(x, 0.5), 2), [aten.neg.default]),
    "quartered after": (lambda x: aten.mul.Scalar(x * W, -0.25), [aten.mul.Tensor]),
}


@pytest.mark.parametrize("name", FOLDS)
def test_what_is_exact_is_folded(name: str) -> None:
    compute, left = FOLDS[name]
    assert calls(folded(lambda x: [compute(x)], X)) == left


STAYS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "a factor that rounds": (lambda x: aten.mul.Scalar(x * W, 3), 2),
    "factors that round": (lambda x: aten.mul.Scalar(aten.mul.Scalar(x, 3), 2), 2),
    "a large factor": (lambda x: aten.mul.Scalar(aten.mul.Scalar(x, 2.0**600), 2.0**-600), 2),
    "zero": (lambda x: aten.mul.Scalar(x * W, 0.0), 2),
    "infinity": (lambda x: aten.mul.Scalar(x * W, math.inf), 2),
    "nothing constant": (lambda x: -(x * x), 2),
    "seen by others": (lambda x: (lambda y: -y * y.sin())(x * W), 4),
    "a tiny constant": (lambda x: aten.mul.Scalar(x * (W * 1e-160), 2), 2),
    "a huge constant": (lambda x: aten.mul.Scalar(x * (W * 1e160), 2), 2),
    "an expanded constant": (lambda x: -(x * W[:1].expand(3, 4)), 2),
    "a sum with a factor": (lambda x: torch.add(x, -(x * x), alpha=0.3), 3),
    "a constant of another dtype": (lambda x: -(x * W.float()), 2),
    "a number of another dtype": (lambda x: (-x.float().sum()) * W.sum(), 4),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_is_not_exact_or_not_worth_while_stays(name: str) -> None:
    compute, count = STAYS[name]
    assert len(calls(folded(lambda x: [compute(x)], X))) == count


def test_constants_that_others_use_stay_as_they_are() -> None:
    w = W.clone()
    folded(lambda x: [-(x * w), x + w], X)
    assert torch.equal(w, W)


def test_a_narrow_range_takes_signs_only() -> None:
    """In float16 the twofold of an ordinary number overflows, in one order and not in the other."""
    x, w = X.half(), W.half()
    assert len(calls(folded(lambda x: [-(x * w)], x))) == 1
    result = folded(lambda x: [aten.mul.Scalar(aten.mul.Scalar(x, 4096.0) * w, 0.5)], x)
    assert len(calls(result)) == 3
    large = torch.full((3, 4), 100.0, dtype=torch.float16)
    assert not run(result, large)[0].isfinite().any()


def test_the_order_of_factors_and_with_it_the_strides_are_kept() -> None:
    turned = normal(4, 3, seed=9).t()
    for compute in (lambda x: [turned * (-x)], lambda x: [(-x) * turned], lambda x: [-(turned * x)]):
        assert len(calls(folded(compute, X))) == 1


def test_negated_views_lie_otherwise_than_what_they_show() -> None:
    """−x of an expanded x is a tensor of full size, so x itself may not stand in its place."""
    result = folded(lambda x: [(-x[:1].expand(3, 4)) * W.t().contiguous().t()], X)
    assert aten.neg.default in calls(result)
