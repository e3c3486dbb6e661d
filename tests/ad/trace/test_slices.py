"""Derivatives of slices: added up before they are put in their places, and padded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.ad.trace.recorder import Record
from hvplib.ad.trace.slices import simplify_slices
from tests.ad.problems import normal
from tests.ad.trace.programs import agree, calls, made, run

aten: Any = torch.ops.aten
PAD, ADD, BACK = aten.constant_pad_nd.default, aten.add.Tensor, aten.slice_backward.default
X = normal(3, 4, seed=1)
END = 2**63 - 1


def simplified(compute: Callable[[Tensor], Tensor], x: Tensor = X) -> Record:
    result = made(lambda x: [compute(x)], x)
    simplify_slices(result.graph, result.traits)
    result.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    other = normal(*x.shape, seed=40)
    other.view(-1)[:3] = torch.tensor([0.0, -0.0, torch.nan])
    assert agree(run(result, other), [compute(other)])
    return result


def back(x: Tensor, size: list[int], dim: int, start: int, end: int, step: int = 1) -> Tensor:
    placed: Tensor = aten.slice_backward(x, size, dim, start, end, step)
    return placed


@pytest.mark.parametrize(
    ("size", "dim", "start", "end"),
    [
        ([5, 4], 0, 0, 3),
        ([5, 4], 0, 2, END),
        ([5, 4], 0, 1, -1),
        ([5, 4], -2, -3, END),
        ([3, 9], 1, 2, 6),
        ([3, 9], -1, -4, END),
        ([3, 4], 1, 0, END),
    ],
)
def test_a_slice_goes_to_its_place(size: list[int], dim: int, start: int, end: int) -> None:
    assert calls(simplified(lambda x: back(x, size, dim, start, end))) == [PAD]


def test_steps_and_empty_slices_stay() -> None:
    assert calls(simplified(lambda x: back(x, [6, 4], 0, 0, END, 2))) == [BACK]
    assert calls(simplified(lambda x: back(x[:0], [6, 4], 0, 6, END))) == [aten.slice.Tensor, BACK]
    assert calls(simplified(lambda x: back(x.t(), [4, 5], 1, 0, 3))) == [aten.t.default, BACK]


def test_images_by_channels_keep_the_layout_that_they_get() -> None:
    images = normal(2, 3, 4, 5, seed=2).to(memory_format=torch.channels_last)
    assert calls(simplified(lambda x: back(x, [2, 3, 9, 5], 2, 1, 5), images)) == [BACK]


def test_those_of_one_place_are_added_first() -> None:
    def compute(x: Tensor) -> Tensor:
        return back(x.sin(), [5, 4], 0, 1, 4) + back(x * 2, [5, 4], 0, 1, 4)

    assert calls(simplified(compute))[-2:] == [ADD, PAD]


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: back(x.sin(), [5, 4], 0, 1, 4) + back(x * 2, [5, 4], 0, 2, END),
        lambda x: torch.add(back(x.sin(), [5, 4], 0, 1, 4), back(x * 2, [5, 4], 0, 1, 4), alpha=3),
        lambda x: (lambda y: y + back(x * 2, [5, 4], 0, 1, 4) + y.exp())(back(x.sin(), [5, 4], 0, 1, 4)),
    ],
    ids=["two places", "a factor", "seen by others"],
)
def test_others_are_added_where_they_are(compute: Callable[[Tensor], Tensor]) -> None:
    assert calls(simplified(compute)).count(PAD) == 2
