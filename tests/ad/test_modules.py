"""functional_loss: which parameters, what the loss sees, and what stays as it was."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hvplib import functional_loss
from hvplib.ad.modules import select_parameters


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3, bias=False))
        self.head = nn.Linear(3, 2)
        self.tail = nn.Linear(3, 2)
        self.tail.weight = self.head.weight
        self.body[1].bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)) + self.tail(x)

    def penalty(self) -> Tensor:
        return self.head.weight.square().sum()


ALL = [
    "body.0.weight",
    "body.0.bias",
    "body.1.weight",
    "body.1.bias",
    "body.2.weight",
    "head.weight",
    "head.bias",
    "tail.bias",
]
TRAINABLE = [name for name in ALL if name != "body.1.bias"]


@pytest.mark.parametrize(
    ("params", "names"),
    [
        (lambda net: None, TRAINABLE),
        (lambda net: "head.bias", ["head.bias"]),
        (lambda net: ["tail.bias", "head.bias"], ["head.bias", "tail.bias"]),
        (lambda net: "tail.weight", ["head.weight"]),
        (lambda net: "*.bias", ["body.0.bias", "body.1.bias", "head.bias", "tail.bias"]),
        (
            lambda net: ["body.*.weight", "head.*"],
            [n for n in ALL if "body" in n and "weight" in n] + ALL[5:7],
        ),
        (lambda net: re.compile(r"^body\.[01]"), ALL[:4]),
        (lambda net: re.compile("tail"), ["head.weight", "tail.bias"]),
        (lambda net: net.body, ALL[:5]),
        (lambda net: [net.tail, net.body[1]], ["body.1.weight", "body.1.bias", "head.weight", "tail.bias"]),
        (lambda net: lambda name, p: p.dim() == 2, ["body.0.weight", "body.2.weight", "head.weight"]),
        (lambda net: ["head.bias", re.compile("norm|head"), net.head], ["head.weight", "head.bias"]),
    ],
)
def test_selections(params: Any, names: list[str]) -> None:
    net = Net()
    assert list(select_parameters(net, params(net))) == names


def test_a_list_may_come_from_a_generator() -> None:
    assert list(select_parameters(Net(), (name for name in ["head.bias"]))) == ["head.bias"]


def test_refusals_of_selections() -> None:
    net = Net()
    with pytest.raises(
        ValueError, match=r"no parameter matches 'haed.\*'; the model has body.0.weight, body.0.bias"
    ):
        select_parameters(net, "haed.*")
    with pytest.raises(ValueError, match=r"no parameter matches '\^x'; the model has"):
        select_parameters(net, re.compile("^x"))
    with pytest.raises(ValueError, match="the layer Linear has no parameters in the model"):
        select_parameters(net, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="the layer Tanh has no parameters in the model"):
        select_parameters(net, nn.Tanh())
    with pytest.raises(ValueError, match="the predicate params selects no parameter; the model has"):
        select_parameters(net, lambda name, p: False)
    with pytest.raises(ValueError, match="params is an empty list; pass None"):
        select_parameters(net, [])
    with pytest.raises(TypeError, match="params must hold names, patterns or layers, got int"):
        select_parameters(net, [3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no parameter of the model requires grad; name those"):
        select_parameters(Net().requires_grad_(False))
    with pytest.raises(ValueError, match=r"parameter 0\.weight is not initialised yet; run the model once"):
        select_parameters(nn.Sequential(nn.LazyLinear(3)))
    integer = nn.Linear(2, 2)
    integer.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(
        TypeError, match=r"parameter weight has dtype torch\.int8, without derivative; leave it out"
    ):
        select_parameters(integer, "weight")
    assert list(select_parameters(integer)) == ["bias"]


def test_the_loss_sees_the_module_with_other_parameters() -> None:
    net = Net()
    func, theta = functional_loss(net, lambda model, batch: model(batch).sum() + model.penalty(), ["head.*"])
    x = torch.randn(5, 3)
    other = copy.deepcopy(net)
    values = {"head.weight": torch.ones(2, 3), "head.bias": torch.full((2,), 3.0)}
    with torch.no_grad():
        other.head.weight.copy_(values["head.weight"])
        other.head.bias.copy_(values["head.bias"])
    torch.testing.assert_close(func(values, x), other(x).sum() + other.penalty())
    torch.testing.assert_close(func(theta, x), net(x).sum() + net.penalty())


def test_the_copies_do_not_follow_the_model() -> None:
    net = nn.Linear(2, 2)
    _, theta = functional_loss(net, nn.MSELoss())
    before = theta["weight"].clone()
    with torch.no_grad():
        net.weight.zero_()
    assert torch.equal(theta["weight"], before) and not theta["weight"].requires_grad


def test_every_call_starts_from_the_same_buffers() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    func, theta = functional_loss(net, lambda model, x: model[0].running_mean.sum() + 0 * model(x).sum())
    x = torch.ones(3, 2)
    assert func(theta, x) == func(theta, x) == 0
    assert net[0].running_mean.sum() == 0 and net[0].num_batches_tracked == 0
    net(x)
    assert net[0].running_mean.sum() > 0
    assert func(theta, x) == 0, "buffers are those of the moment the function was made"


def test_the_model_is_put_back_after_an_exception() -> None:
    net = nn.Linear(2, 2)
    weight = net.weight

    def loss(model: Any, batch: Any) -> Tensor:
        model(batch)
        raise KeyError("broken")

    func, theta = functional_loss(net, loss)
    with pytest.raises(KeyError, match="broken"):
        func({name: torch.zeros_like(t) for name, t in theta.items()}, torch.ones(1, 2))
    assert net.weight is weight


def test_a_loss_module_with_parameters_keeps_them_constant() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(3.0))

        def forward(self, model: Any, batch: Tensor) -> Tensor:
            return self.scale * model(batch).sum()

    func, theta = functional_loss(nn.Linear(2, 1, bias=False), Weighted())
    assert list(theta) == ["weight"]
    assert func({"weight": torch.ones(1, 2)}, torch.ones(1, 2)) == 6


def test_a_changed_mode_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    func, theta = functional_loss(net, lambda model, x: model(x).sum())
    net.eval()
    with pytest.raises(RuntimeError, match="train/eval mode has changed since this function was made"):
        func(theta, torch.ones(1, 2))
    net.train()
    func(theta, torch.ones(1, 2))


def test_changed_constants_are_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    func, theta = functional_loss(net, lambda model, x: model(x).sum(), net[1])
    with torch.no_grad():
        net[1].weight.zero_()
    func(theta, torch.ones(1, 2))
    with torch.no_grad():
        net[0].weight.zero_()
    with pytest.raises(RuntimeError, match="parameters that were not selected have changed"):
        func(theta, torch.ones(1, 2))


def test_wrappers_are_taken_off() -> None:
    net = nn.Linear(2, 1)
    for wrapped in (nn.DataParallel(net), torch.compile(net, backend="eager")):
        _, theta = functional_loss(wrapped, nn.MSELoss())
        assert list(theta) == ["weight", "bias"]


def test_noisy_modules_are_those_in_train_mode() -> None:
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.Dropout().eval())
    func, _ = functional_loss(net, nn.MSELoss())
    assert func.noisy_modules() == ["0 (Dropout, train mode)", "1 (BatchNorm1d, train mode)"]
    assert functional_loss(net.eval(), nn.MSELoss())[0].noisy_modules() == []
    assert functional_loss(nn.Bilinear(2, 2, 2), nn.MSELoss())[0].noisy_modules() == []


def test_a_module_that_stands_in_two_places_is_put_back() -> None:
    """torch's functional_call with tied weights leaves other tensors in such a module."""
    shared = nn.BatchNorm1d(3)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(3, 2)).eval()
    before = [(module, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    x = torch.randn(4, 3)
    func, theta = functional_loss(model, lambda m: m(x).square().sum())
    assert torch.equal(func(theta), model(x).square().sum())
    doubled = func({name: 2 * p for name, p in theta.items()})
    for module, parameters, buffers in before:
        assert all(module._parameters[name] is p for name, p in parameters.items())
        assert all(module._buffers[name] is b for name, b in buffers.items())
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    assert torch.equal(doubled, model(x).square().sum())  # both places saw the other parameters
