from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.ad.trace.purify import purify
from hvplib.ad.trace.recorder import record, writes
from tests.ad.problems import normal
from tests.ad.trace.programs import calls, made, run

aten: Any = torch.ops.aten
X, Y, W = normal(4, seed=1), normal(4, seed=2), normal(4, seed=3)


def accumulates(x: Tensor) -> list[Tensor]:
    total = x * 2
    total += W
    total.mul_(x).exp_()
    return [total, x]


def seen_before(x: Tensor) -> list[Tensor]:
    y = x * 2
    z = y + 1
    y.add_(x)
    return [y * z]


def through_a_view_that_is_written(x: Tensor) -> list[Tensor]:
    y = x * 2
    y.view(2, 2).add_(1)
    return [y * 3]


def starts_empty(x: Tensor) -> list[Tensor]:
    return [torch.empty_like(x).copy_(x) * 2, torch.zeros_like(x).add_(x, alpha=0.3)]


def overloads_of_other_names(x: Tensor) -> list[Tensor]:
    """`pow_.Scalar` is `pow.Tensor_Scalar`."""
    return [(x * 2).square_(), (x * 3).pow_(3), (x * 2).clamp_(min=W)]


@pytest.mark.parametrize("compute", [accumulates, seen_before, starts_empty, overloads_of_other_names])
def test_writes_become_values(compute: Callable[..., list[Tensor]]) -> None:
    result = made(compute, X)
    assert any(map(writes, calls(result)))
    assert purify(result.graph, result.traits)
    assert not any(map(writes, calls(result)))
    for a, b in zip(run(result, Y), compute(Y), strict=True):
        assert torch.equal(a, b)


def looked_at_afterwards_through_a_view(x: Tensor) -> list[Tensor]:
    y = x * 2
    z = y[1:]
    y.add_(1)
    return [y, z * 1]


def an_operation_that_takes_its_arguments_in_another_order(x: Tensor) -> list[Tensor]:
    return [(x * 2).polygamma_(1)]


def looked_at_afterwards_through_an_alias(x: Tensor) -> list[Tensor]:
    y = x * 2
    z = y.detach()
    y.add_(1)
    return [z * 1]


def returned_by_its_old_name(x: Tensor) -> list[Tensor]:
    y = x * 2
    z = y.view(2, 2)
    y.add_(1)
    return [z]


def a_part(x: Tensor) -> list[Tensor]:
    y = x * 2
    y[0].copy_(x[1])
    return [y * 1]


def a_part_that_is_all_there_is(x: Tensor) -> list[Tensor]:
    """Its strides are those of a whole that nothing else shows."""
    return [(x * 2).view(2, 2)[:, :1].add_(1)]


def of_another_dtype(x: Tensor) -> list[Tensor]:
    return [(x.float() * 2).add_(x)]


def several_at_once(x: Tensor) -> list[Tensor]:
    parts = [x * 2, x * 3]
    torch._foreach_add_(parts, 1.0)
    return parts


def by_index(x: Tensor) -> list[Tensor]:
    return [torch.zeros_like(x).index_put_((torch.tensor([1, 1]),), x[:2], True)]


def into_an_output(x: Tensor) -> list[Tensor]:
    y = x * 2
    torch.mul(x, 3, out=y)
    return [y]


@pytest.mark.parametrize(
    "compute",
    [
        through_a_view_that_is_written,
        an_operation_that_takes_its_arguments_in_another_order,
        looked_at_afterwards_through_a_view,
        looked_at_afterwards_through_an_alias,
        returned_by_its_old_name,
        a_part,
        a_part_that_is_all_there_is,
        of_another_dtype,
        several_at_once,
        by_index,
        into_an_output,
    ],
)
def test_writes_that_others_see_stay(compute: Callable[..., list[Tensor]]) -> None:
    """And the graph is as it was: run again, it writes."""
    result = record(compute, [X])
    before = calls(result)
    assert not purify(result.graph, result.traits)
    assert calls(result) == before
    for a, b in zip(run(result, Y), compute(Y), strict=True):
        assert torch.equal(a, b)
