"""NewtonCG trains a network on digits in mini-batches, and takes up an interrupted training bit for bit."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hvplib.optim.torch_optimizer import NewtonCG


@cache
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.data / 16.0).float()[order], torch.tensor(data.target)[order]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))


def batches(epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first 1437 images, shuffled for this epoch."""
    x, y = digits()
    order = torch.randperm(1437, generator=torch.Generator().manual_seed(epoch))
    return ((x[batch], y[batch]) for batch in order.split(size))


def newton_epoch(model: nn.Module, optimizer: NewtonCG, epoch: int) -> list[float]:
    def closure_of(x: Tensor, y: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
        def closure() -> tuple[Tensor, Tensor]:
            z = model(x)
            return cross_entropy(z, y), z

        return closure

    return [optimizer.step(closure_of(x, y)).item() for x, y in batches(epoch, 256)]


def validation(model: nn.Module) -> tuple[float, float]:
    """Loss and accuracy on the other 360."""
    x, y = digits()
    with torch.no_grad():
        z = model(x[1437:])
    return float(cross_entropy(z, y[1437:])), float((z.argmax(1) == y[1437:]).float().mean())


def test_it_needs_fewer_epochs_than_adam() -> None:
    epochs = 5
    model = network()
    optimizer = NewtonCG(model.parameters())
    for epoch in range(epochs):
        newton_epoch(model, optimizer, epoch)
    loss, accuracy = validation(model)
    assert accuracy >= 0.97
    best = float("inf")
    for lr in (3e-3, 1e-2, 3e-2):
        other = network()
        adam = torch.optim.Adam(other.parameters(), lr=lr)
        for epoch in range(epochs):
            for x, y in batches(epoch, 64):
                adam.zero_grad()
                cross_entropy(other(x), y).backward()
                adam.step()
        best = min(best, validation(other)[0])
    assert loss < best


def test_an_interrupted_training_goes_on_bit_for_bit() -> None:
    model = network()
    optimizer = NewtonCG(model.parameters())
    newton_epoch(model, optimizer, 0)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    expected = newton_epoch(model, optimizer, 1)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    again.load_state_dict(saved["model"])
    other = NewtonCG(again.parameters())
    other.load_state_dict(saved["optimizer"])
    assert newton_epoch(again, other, 1) == expected
    assert all(map(torch.equal, model.parameters(), again.parameters()))
