"""Two programs for a function, against the graph and closed forms at other points and data."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from hvplib.ad.trace.second_order import SecondOrder
from hvplib.errors import TraceError

F64 = torch.float64


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def quartic(x: Tensor, y: Tensor, a: Tensor, v: Tensor, w: Tensor) -> Sequence[Tensor]:
    """f = Σ (a x)⁴ / 4 + Σ x y²: value, gradient, product."""
    value = ((a * x) ** 4).sum() / 4 + (x * y**2).sum()
    products = 3 * a**4 * x**2 * v + 2 * y * w, 2 * y * v + 2 * x * w
    return [value, a**4 * x**3 + y**2, 2 * x * y, *products]


@pytest.fixture(scope="module")
def program() -> SecondOrder:
    x, y, a, v, w = (normal(5, seed=s) for s in range(5))
    return SecondOrder(quartic, [x, y], [a], [v, w])


def test_other_points_data_and_vectors(program: SecondOrder) -> None:
    x, y, a, v, w = (normal(5, seed=10 + s) for s in range(5))
    value, gradients, residuals = program.linearize([x, y], [a])
    expected = quartic(x, y, a, v, w)
    assert all(map(torch.equal, [value, *gradients], expected[:3]))
    assert all(map(torch.equal, program.multiply(residuals, [v, w]), expected[3:]))


def test_a_block_is_its_columns(program: SecondOrder) -> None:
    x, y, a = (normal(5, seed=20 + s) for s in range(3))
    V, W = normal(4, 5, seed=23), normal(4, 5, seed=24)
    _, _, residuals = program.linearize([x, y], [a])
    block = program.multiply_block(residuals, [V, W], 4)
    assert block is not None
    for j in range(4):
        for part, single in zip(block, quartic(x, y, a, V[j], W[j])[3:], strict=True):
            torch.testing.assert_close(part[j], single, rtol=1e-13, atol=1e-13)
    assert program.multiply_block(residuals, [V[:1], W[:1]], 1) is None


def test_gradients_are_the_callers_own(program: SecondOrder) -> None:
    x, y, a, v, w = (normal(5, seed=30 + s) for s in range(5))
    _, gradients, residuals = program.linearize([x, y], [a])
    before = [p.clone() for p in program.multiply(residuals, [v, w])]
    for tensor in (*gradients, *program.multiply(residuals, [v, w])):
        tensor.zero_()
    assert all(map(torch.equal, program.multiply(residuals, [v, w]), before))


def test_a_point_is_taken_up_again_without_its_gradient(
    program: SecondOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, a, v, w = (normal(5, seed=40 + s) for s in range(5))
    value, _, residuals = program.linearize([x, y], [a])
    monkeypatch.setattr(program, "_linearize", None)
    again, others = program.again([x, y], [a])
    assert torch.equal(again, value) and torch.equal(again, program.value([x, y], [a]))
    assert all(map(torch.equal, others, residuals))
    assert all(map(torch.equal, program.multiply(others, [v, w]), quartic(x, y, a, v, w)[3:]))


def test_what_depends_on_numbers_is_refused() -> None:
    def branching(x: Tensor, v: Tensor) -> Sequence[Tensor]:
        return [x.sum(), x * 2 if bool(x.sum() > 0) else x, v]

    with pytest.raises(TraceError, match=r"_local_scalar_dense|reads a value|depends on values"):
        SecondOrder(branching, [normal(3, seed=40)], [], [normal(3, seed=41)])


def test_a_captured_tensor_is_watched() -> None:
    scale = torch.ones(3, dtype=F64)
    program = SecondOrder(
        lambda x, v: [(scale * x).sum(), scale * x, scale * 2 * v],
        [normal(3, seed=50)],
        [],
        [normal(3, seed=51)],
    )
    assert program.holds
    scale.add_(1)
    assert not program.holds
