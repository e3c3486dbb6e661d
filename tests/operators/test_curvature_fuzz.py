"""Random small models, losses and batches: the operators against dense matrices by loops."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hvplib import FisherOperator, GGNOperator, JacobianOperator
from tests.curvatures import assert_same, flat_function, gauss_newton, jacobian, second_moment

ACTIVATIONS = [nn.Tanh, nn.GELU, nn.SiLU, nn.Softplus, nn.ReLU, nn.Sigmoid]


def _model(rng: random.Random, inputs: int, outputs: int) -> nn.Sequential:
    width = rng.randint(1, 4)
    layers: list[nn.Module] = [nn.Linear(inputs, width, bias=rng.random() < 0.8)]
    norm = rng.choice([None, nn.BatchNorm1d, nn.LayerNorm])
    if norm is not None:
        layers.append(norm(width))
    layers.append(rng.choice(ACTIVATIONS)())
    if rng.random() < 0.4:  # one layer in two places
        shared = nn.Linear(width, width)
        layers += [shared, nn.Tanh(), shared]
    layers.append(nn.Linear(width, outputs))
    model = nn.Sequential(*layers)
    if rng.random() < 0.3:
        next(iter(model.parameters())).requires_grad_(False)
    return model


def _split(rng: random.Random, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Uneven batches, of one example among them."""
    sizes: list[int] = []
    while sum(sizes) < len(x):
        sizes.append(min(rng.randint(1, 4), len(x) - sum(sizes)))
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def _criterion(rng: random.Random, outputs: int, count: int) -> tuple[nn.Module, Tensor]:
    kind = rng.choice(["ce", "bce", "mse", "poisson"])
    if kind == "ce":
        y = torch.randint(outputs, (count,))
        y[torch.rand(count) < 0.3] = -100
        y[0] = 0
        return nn.CrossEntropyLoss(), y
    if kind == "bce":
        return nn.BCEWithLogitsLoss(), torch.randint(2, (count, outputs)).double()
    if kind == "mse":
        return nn.MSELoss(), torch.randn(count, outputs, dtype=torch.float64)
    return nn.PoissonNLLLoss(), torch.randint(4, (count, outputs)).double()


@pytest.mark.parametrize("seed", range(24))
def test_random_problems(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    single = seed % 6 == 5  # float32
    inputs, outputs, count = rng.randint(1, 3), rng.randint(1, 3), rng.randint(2, 8)
    model = _model(rng, inputs, outputs).double()
    model.train()
    model(torch.randn(5, inputs, dtype=torch.float64))  # running statistics
    model.eval()
    x = torch.randn(count, inputs, dtype=torch.float64)
    criterion, y = _criterion(rng, outputs, count)
    exact_x, exact_y = x, y
    function, at = flat_function(model, lambda m: m(exact_x))
    loss = lambda z: criterion(z.view(count, outputs), exact_y)  # noqa: E731
    expected = gauss_newton(function, at, loss)
    parts = type(criterion)(reduction="none")
    terms = lambda v: parts(function(v).view(count, outputs), exact_y).reshape(-1)  # noqa: E731
    counted = (y.reshape(-1) != -100).double()
    moments = second_moment(terms, at, counted) / counted.sum()
    tolerance = 2e-3 if single else 1e-9
    if single:
        model, x = model.float(), x.float()
        y = y.float() if y.is_floating_point() else y
    data: list[Any] = [*_split(rng, x, y)]
    if isinstance(criterion, nn.CrossEntropyLoss):  # and a batch that counts for nothing
        data.insert(rng.randint(0, len(data)), (x[:1], torch.tensor([-100])))
    for budget in ("auto", 0):
        options: dict[str, Any] = {"memory_budget": budget}
        G = GGNOperator.from_module(model, criterion, data, **options)
        assert_same(G.to_dense().double(), expected, tolerance)
        exact = FisherOperator.from_module(model, criterion, data, **options)
        assert_same(exact.to_dense().double(), expected, tolerance)
        empirical = FisherOperator.from_module(model, criterion, data, kind="empirical", **options)
        assert_same(empirical.to_dense().double(), moments, tolerance)
    J = JacobianOperator.from_module(model, _split(rng, x, y))
    assert_same(J.to_dense().double(), jacobian(function, at), tolerance)
