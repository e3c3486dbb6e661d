"""Vectors held as lists of tensors: double-precision sums, NaN that stays NaN, empty lists."""

from __future__ import annotations

import math

import pytest
import torch

from hvplib.ad.vectors import all_finite, coarsest, distance, dot, moved, norm, relative_error
from tests.ad.problems import F64, normal

A = [normal(2, 3), normal(seed=1), normal(4, seed=2)]
B = [normal(2, 3, seed=3), normal(seed=4), normal(4, seed=5)]


def test_sums_equal_those_of_one_long_vector() -> None:
    a, b = (torch.cat([t.reshape(-1) for t in tree]) for tree in (A, B))
    assert dot(A, B) == pytest.approx(float(a @ b), rel=1e-14)
    assert norm(A) == pytest.approx(float(a.norm()), rel=1e-14)
    assert distance(A, B) == pytest.approx(float((a - b).norm()), rel=1e-14)
    assert relative_error(A, B) == pytest.approx(float((a - b).norm() / max(a.norm(), b.norm())), rel=1e-14)
    assert norm([]) == dot([], []) == 0


def test_low_precision_is_summed_in_double() -> None:
    ones = [torch.ones(4096, dtype=torch.bfloat16)]
    assert dot(ones, ones) == 4096
    large = [torch.full((2,), 300.0, dtype=torch.float16)]
    assert norm(large) == pytest.approx(300 * math.sqrt(2))


def test_relative_error_at_the_edges() -> None:
    zero, nan = [torch.zeros(3, dtype=F64)], [torch.tensor([1.0, math.nan, 2.0], dtype=F64)]
    assert relative_error(zero, zero) == 0
    for left, right in ((nan, zero), (zero, nan), (nan, nan)):
        assert not relative_error(left, right) <= 1e300, "NaN agrees with nothing"


def test_moved() -> None:
    got = moved(A, B, 0.5)
    assert all(torch.equal(g, a + 0.5 * b) for g, a, b in zip(got, A, B, strict=True))


def test_all_finite() -> None:
    assert all_finite(A) and all_finite([]) and all_finite([torch.empty(0)])
    assert not all_finite([A[0], torch.tensor(math.nan)])
    assert not all_finite([torch.tensor([math.inf, -math.inf])])
    assert all_finite([torch.tensor([3e38, 3e38])]), "the sum overflows, the numbers are finite"


def test_coarsest() -> None:
    half, single, double = torch.ones(1, dtype=torch.bfloat16), torch.ones(1), torch.ones(1, dtype=F64)
    assert coarsest([double]) == F64
    assert coarsest([double, single]) == torch.float32
    assert coarsest([single, half, double]) == torch.bfloat16


def test_long_vectors_are_summed_in_pieces() -> None:
    """Over what is brought to double precision at a time, with a remainder, and not contiguous."""
    a, b = (torch.randn(3, 2**19 + 5, generator=torch.Generator().manual_seed(s)).mT for s in (0, 1))
    x, y = a.double(), b.double()
    assert dot([a], [b]) == pytest.approx(float((x * y).sum()), rel=1e-11)
    assert norm([a, b]) == pytest.approx(float((x.square().sum() + y.square().sum()).sqrt()), rel=1e-12)
    assert distance([a], [b]) == pytest.approx(float((x - y).norm()), rel=1e-12)
