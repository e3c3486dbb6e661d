"""A recorded linear map with zeros and matrices of rank one: the same products, by fewer operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.ad.trace.linear import LinearMap, Outer, Part
from tests.ad.problems import normal
from tests.ad.trace.programs import made

A, B, C = normal(3, 4, seed=1), normal(4, 5, seed=2), normal(4, 4, seed=3)


def linear(compute: Callable[..., Sequence[Tensor]], residuals: list[Tensor], *vectors: Tensor) -> LinearMap:
    result = made(compute, *residuals, *vectors)
    return LinearMap(result.graph, result.constants, result.traits, len(vectors))


def layered(r: Tensor, v: Tensor, b: Tensor, w: Tensor) -> list[Tensor]:
    """Like the products of a network: each later vector meets less of it."""
    first = (A @ v.t() + b) * r
    second = first @ C + (A * r) @ w
    return [second.t() @ A, second.sum(0), (A.t() @ first).t() + w]


VECTORS = (normal(4, 4, seed=10), normal(4, seed=11), normal(4, 4, seed=12))
R = normal(3, 4, seed=13)


@pytest.mark.parametrize("rows", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2), ()])
def test_products_with_vectors_that_are_zero_elsewhere(rows: tuple[int, ...]) -> None:
    of = linear(layered, [R], *VECTORS)
    padded = [v if number in rows else torch.zeros_like(v) for number, v in enumerate(VECTORS)]
    expected = layered(R, *padded)
    found = of([R], {number: VECTORS[number] for number in rows}, [0, 1, 2])
    for product, right in zip(found, expected, strict=True):
        if product is None:
            assert not right.any()
        else:
            torch.testing.assert_close(product, right, rtol=1e-13, atol=1e-13)
    (last,) = of([R], {number: VECTORS[number] for number in rows}, [2])
    assert last is None if not rows else torch.equal(last, found[2])


def test_a_matrix_of_rank_one_is_never_multiplied_out_before_a_product() -> None:
    u, w = normal(4, seed=20), normal(4, seed=21)
    of = linear(layered, [R], *VECTORS)
    seen: list[Any] = []
    dense = Outer.dense

    def watched(self: Outer) -> Tensor:
        seen.append((len(self.left), len(self.right)))
        return dense(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outer, "dense", watched)
        found = of([R], {0: Outer(u, w)}, [0, 1, 2])
    assert set(seen) == {(3, 4)}  # A (w uᵀ) = (A w) uᵀ, where it is added to
    expected = layered(R, torch.outer(u, w), *map(torch.zeros_like, VECTORS[1:]))
    for product, right in zip(found, expected, strict=True):
        torch.testing.assert_close(product, right, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "compute",
    [
        lambda r, v: [v @ B],
        lambda r, v: [A @ v],
        lambda r, v: [(v.t() @ C).t() @ B],
        lambda r, v: [v * C],
        lambda r, v: [v.view(-1) * 2],
        lambda r, v: [v.view(2, 8).sum(1)],
        lambda r, v: [(A @ v @ B)[1]],
        lambda r, v: [v.t() - C * v],
        lambda r, v: [-(v + v)],
    ],
)
def test_rank_one_gives_what_the_matrix_gives(compute: Any) -> None:
    u, w = normal(4, seed=20), normal(4, seed=21)
    of = linear(compute, [R], normal(4, 4, seed=22))
    (found,) = of([R], {0: Outer(u, w)}, [0])
    assert found is not None
    torch.testing.assert_close(found, compute(R, torch.outer(u, w))[0], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("compute", "zero"),
    [
        (lambda r, v, w: [w, v + w], False),
        (lambda r, v, w: [v - w, w - v], False),
        (lambda r, v, w: [v[0] - w, w], False),  # broadcast
        (lambda r, v, w: [torch.cat([v, w]), v], False),
        (lambda r, v, w: [torch.add(v, w, alpha=3), v], False),
        (lambda r, v, w: [torch.where(C > 0, v, w), v], False),
        (lambda r, v, w: [v * r, (w * C).sum() * r], True),
        (lambda r, v, w: [torch.ones_like(v) * w, v], False),  # what looks at the shape alone is not zero
    ],
)
def test_sums_with_zeros(compute: Any, zero: bool) -> None:
    r, v, w = normal(4, seed=30), normal(4, 4, seed=31), normal(4, 4, seed=32)
    of = linear(compute, [r], v, w)
    for given, other in (({0: v}, (v, torch.zeros_like(w))), ({1: w}, (torch.zeros_like(v), w))):
        found, expected = of([r], given, [0, 1]), compute(r, *other)
        for product, right in zip(found, expected, strict=True):
            if product is None:
                assert not right.any()
            else:
                assert product.shape == right.shape
                torch.testing.assert_close(product, right, rtol=0, atol=0)
    assert (of([r], {1: w}, [0])[0] is None) == zero


def test_the_parts_are_leaves_or_the_slices_of_a_vector() -> None:
    whole = linear(layered, [R], *VECTORS).parts
    assert whole == [
        Part(0, 0, 16, (4, 4), (4, 4)),
        Part(1, 0, 4, (4,), None),
        Part(2, 0, 16, (4, 4), (4, 4)),
    ]

    def sliced(r: Tensor, x: Tensor) -> list[Tensor]:
        products = layered(r, x[:16].view(4, 4), x[16:20], x[20:].view(4, 4))
        return [torch.cat([p.reshape(-1) for p in products])]

    of = linear(sliced, [R], normal(36, seed=40))
    assert of.parts == [
        Part(0, 0, 16, (16,), (4, 4)),
        Part(0, 16, 20, (4,), None),
        Part(0, 20, 36, (16,), (4, 4)),
    ]
    u, w = normal(4, seed=41), normal(4, seed=42)
    found = of([R], {2: Outer(u, w, flat=True)}, [0, 1, 2])
    zero = torch.zeros(4, 4, dtype=u.dtype)
    for product, right in zip(found, layered(R, zero, zero[0], torch.outer(u, w)), strict=True):
        assert product is not None
        torch.testing.assert_close(product, right.reshape(-1), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "compute",
    [
        lambda r, x: [torch.cat([x[:16], x[16:] + x.sum()])],  # the vector is read whole as well
        lambda r, x: [torch.cat([x[:16], x[16:]], 0) * 2],  # joined, and then changed
        lambda r, x: [torch.cat([x[:10], x[10:]]) + 0 * x.flip(0)],
        lambda r, x: [torch.cat([x[:10] + x[5:15], x[10:]])],  # read otherwise than it is joined
    ],
)
def test_other_vectors_are_one_part(compute: Any) -> None:
    of = linear(compute, [R], normal(20, seed=50))
    assert [len(part) for part in of.parts] == [20]


def test_costs_are_those_of_what_is_computed() -> None:
    of = linear(layered, [R], *VECTORS)
    everything, none = of.cost([0, 1, 2], [0, 1, 2]), of.cost([], [0, 1, 2])
    assert none == (0, 0) and of.cost([0], []) == (0, 0)
    parts = [of.cost([number], [0, 1, 2]) for number in range(3)]
    assert all(a < everything[0] and b < everything[1] for a, b in parts)
    assert of.cost([2], [2])[1] < of.cost([2], [0, 1, 2])[1]
