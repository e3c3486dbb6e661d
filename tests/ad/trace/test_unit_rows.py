"""Rows of a linear map in chunks: each is the product with a unit vector."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib.ad.trace.linear import LinearMap
from hvplib.ad.trace.unit_rows import UnitRows
from hvplib.errors import TraceError
from tests.ad.problems import normal
from tests.ad.trace.programs import made

A = normal(3, 4, seed=1)
V, W, Z = normal(2, 4, seed=2), normal(3, seed=3), normal(2, 2, 2, seed=4)


def products(r: Tensor, v: Tensor, w: Tensor, z: Tensor) -> list[Tensor]:
    first = (v @ A.mT + w) * r
    return [first @ A + 2 * v, first.sum(0) + w * z.sum(), z * 3]


@pytest.fixture
def linear() -> LinearMap:
    result = made(products, normal(3, seed=5), V, W, Z)
    return LinearMap(result.graph, result.constants, result.traits, 3)


def expected(r: Tensor, rows: list[int]) -> list[Tensor]:
    sizes = [8, 3, 8]
    units = torch.eye(19, dtype=torch.float64)[
        [i for p in rows for i in range(sum(sizes[:p]), sum(sizes[: p + 1]))]
    ]
    vectors = [part.reshape(-1, *x.shape) for part, x in zip(units.split(sizes, 1), (V, W, Z), strict=True)]
    found = [products(r, *(v[k] for v in vectors)) for k in range(len(units))]
    return [torch.stack(column) for column in zip(*found, strict=True)]


@pytest.mark.parametrize("rows", [[0], [1], [2], [0, 1], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("width", [1, 3, None])
def test_chunks_are_the_rows(linear: LinearMap, rows: list[int], width: int | None) -> None:
    size = sum([8, 3, 8][number] for number in rows)
    of = UnitRows(linear, rows, [0, 1, 2], width or size, [normal(3, seed=5)], V)
    assert of.size == size
    r = normal(3, seed=6)
    right = expected(r, rows)
    for number in set(range(3)) - set(of.live):
        assert not right[number].any()
    seen = set()
    for start in of.starts:
        chunk = of([r], start)
        for number, found in zip(of.live, chunk, strict=True):
            wanted = right[number][start : start + of.width]
            torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
        seen |= set(range(start, start + of.width))
    assert seen == set(range(size))


def test_only_what_is_wanted_and_not_zero(linear: LinearMap) -> None:
    r = [normal(3, seed=5)]
    assert UnitRows(linear, [0], [0, 1, 2], 3, r, V).live == [0, 1]
    assert UnitRows(linear, [0], [1, 2], 3, r, V).live == [1]
    assert UnitRows(linear, [2], [0], 3, r, V).live == []


def test_what_cannot_be_recorded_is_refused() -> None:
    result = made(lambda r, v: [v * r], normal(3, seed=5), normal(3, seed=6))
    linear = LinearMap(result.graph, result.constants, result.traits, 1)
    with pytest.raises(TraceError, match="not finite"):
        UnitRows(linear, [0], [0], 2, [torch.full((3,), torch.inf, dtype=torch.float64)], W)
