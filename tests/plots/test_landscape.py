"""Slices of a loss, against the loss itself; the model is left as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hvplib import Diagonal, HessianOperator, eigsh
from hvplib.plots import loss_slice
from hvplib.plots.landscape import filter_normalized


def quartic(x: torch.Tensor) -> torch.Tensor:
    return (x**4).sum() + x[0] * x[1]


X = torch.tensor([1.0, -2.0, 0.5]).double()
H = HessianOperator(quartic, X)


def test_one_direction_against_the_function() -> None:
    d = torch.tensor([1.0, 0.5, -1.0]).double()
    found = loss_slice(H, d, extent=0.5, num_points=5)
    for s, value in zip(found.first.tolist(), found.values.tolist(), strict=True):
        assert value == pytest.approx(float(quartic(X + s * d)), rel=1e-14)
    assert found.second is None and found.quadratic is not None
    s = 1e-3
    near = loss_slice(H, d, extent=s, num_points=3)
    assert near.quadratic is not None
    # Third derivatives are left: 4 Σ x d³ s³.
    torch.testing.assert_close(near.values, near.quadratic, rtol=0, atol=40 * s**3)
    assert float((near.values - near.values[1]).abs().max()) > 1e3 * 40 * s**3


def test_two_directions_against_the_function() -> None:
    pairs = eigsh(H, 2, which="LA")
    found = loss_slice(H, pairs, num_directions=2, extent=0.3, num_points=3)
    for i, s in enumerate(found.first.tolist()):
        for j, t in enumerate(found.first.tolist()):
            moved = X + s * pairs.eigenvectors[:, 0] + t * pairs.eigenvectors[:, 1]
            assert float(found.values[i, j]) == pytest.approx(float(quartic(moved)), rel=1e-13)
    assert found.names[0] == f"eigenvector of {float(pairs.eigenvalues[0]):.4g}"


def test_over_uneven_batches_with_noise_the_middle_is_the_operators_value() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    x, y = torch.randn(10, 3).double(), torch.randint(2, (10,))
    data = [(x[:7], y[:7]), (x[7:], y[7:])]
    operator = HessianOperator.from_module(model, nn.CrossEntropyLoss(), data)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    state = torch.get_rng_state()
    found = loss_slice(operator, num_points=3, extent=0.1)
    assert float(found.values[1]) == pytest.approx(float(operator.value), rel=1e-14)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in model.parameters())
    end = operator.domain.flatten(operator.primals) + 0.1 * operator.domain.flatten(
        filter_normalized(operator.primals, 0)
    )
    assert float(found.values[2]) == pytest.approx(float(operator.at(operator.domain.unflatten(end)).value))


def test_a_sum_over_batches_is_not_divided() -> None:
    f = lambda x, batch: (x * batch).sum()  # noqa: E731
    data = [torch.ones(2), torch.tensor([3.0, 1.0])]
    operator = HessianOperator(lambda x, b: f(x, b) + (x**2).sum(), torch.ones(2), data, reduction="sum")
    assert float(operator.value_at(torch.tensor([2.0, 0.0]))) == pytest.approx(2 + 4 + 6 + 4)
    with pytest.raises(ValueError, match="primals must be like the operator's own point"):
        operator.value_at(torch.ones(3))


def test_filters_have_the_length_of_the_points_own() -> None:
    point = {"conv": torch.randn(4, 3, 2, 2), "bias": torch.randn(4), "zero": torch.zeros(2, 2)}
    d = filter_normalized(point, 0)
    torch.testing.assert_close(d["conv"].flatten(1).norm(dim=1), point["conv"].flatten(1).norm(dim=1))
    assert not d["bias"].any() and not d["zero"].any()
    alone = filter_normalized(torch.tensor([3.0, 4.0]), 0)
    assert float(alone.norm()) == pytest.approx(5)
    assert torch.equal(filter_normalized(point, 0)["conv"], d["conv"]), "the seed says all"


def test_errors() -> None:
    with pytest.raises(TypeError, match="H must be a HessianOperator"):
        loss_slice(Diagonal(torch.ones(3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_directions must be 1 or 2"):
        loss_slice(H, num_directions=3)
    with pytest.raises(ValueError, match="num_points must be at least 2"):
        loss_slice(H, num_points=1)
    with pytest.raises(ValueError, match=r"columns \(3, 1\) or \(3, 2\), got \(4, 1\)"):
        loss_slice(H, torch.ones(4))
    with pytest.raises(ValueError, match='directions must be "random"'):
        loss_slice(H, "eigen")
