"""Zeros in a graph: a single one does, with the same bits for zeros with signs too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.ad.trace.recorder import Record
from hvplib.ad.trace.zeros import simplify_zeros
from tests.ad.problems import normal
from tests.ad.trace.programs import agree, calls, made, run

aten: Any = torch.ops.aten
X = normal(3, 4, seed=1)
ZEROS = torch.zeros_like(X)


def simplified(compute: Callable[[Tensor], Tensor]) -> Record:
    result = made(lambda x: [compute(x)], X)
    simplify_zeros(result.graph, result.traits, result.constants)
    result.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    other = normal(3, 4, seed=40)
    other.view(-1)[:5] = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan])
    assert agree(run(result, other), [compute(other)])
    return result


def kept(result: Record) -> list[int]:
    """The bytes of the constants in use."""
    used = [result.constants[str(node.target)] for node in result.graph.nodes if node.op == "get_attr"]
    return [c.untyped_storage().nbytes() for c in used]


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x + torch.zeros_like(x),
        lambda x: torch.zeros_like(x) + x,
        lambda x: x + ZEROS,
        lambda x: (torch.zeros_like(x) + ZEROS) + x,
        lambda x: x + (torch.zeros_like(x) + torch.zeros_like(x)),
    ],
)
def test_a_single_zero_is_added(compute: Callable[[Tensor], Tensor]) -> None:
    result = simplified(compute)
    assert calls(result) == [aten.add.Tensor] and kept(result) == [8]


@pytest.mark.parametrize(
    ("compute", "count", "nbytes"),
    [
        (lambda x: x + (-ZEROS), 1, [96]),
        (lambda x: x + ZEROS.index_fill(0, torch.tensor([1]), 1.0), 1, [96]),
        (lambda x: x[:1] + ZEROS, 2, [96]),
        (lambda x: x.t()[1:].t() + ZEROS[:, 1:], 4, [96]),
        (lambda x: torch.add(ZEROS, x, alpha=2), 1, [96]),
        (lambda x: x.float() + ZEROS, 2, [96]),
    ],
    ids=["negative", "not all", "a row", "another layout", "a factor", "another dtype"],
)
def test_other_sums_stay(compute: Callable[[Tensor], Tensor], count: int, nbytes: list[int]) -> None:
    result = simplified(compute)
    assert len(calls(result)) == count and kept(result) == nbytes
