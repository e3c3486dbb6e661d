"""A module and its loss as two functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hvplib.operators.module_parts import is_criterion, model_outputs, outer_loss, targets_beside

F64 = torch.float64


def test_outputs_of_parameters_in_the_models_own_memory() -> None:
    model, x = nn.Linear(3, 2).double(), torch.randn(5, 3, dtype=F64)
    func, theta = model_outputs(model, None, None)
    assert theta["weight"].data_ptr() == model.weight.data_ptr() and not theta["weight"].requires_grad
    moved = {"weight": 2 * theta["weight"], "bias": theta["bias"] + 1}
    expected = x @ (2 * model.weight).mT + model.bias + 1
    torch.testing.assert_close(func(moved, (x, None)), expected)
    own, _ = model_outputs(model, "weight", lambda model, batch: model(batch["input"]).square())
    torch.testing.assert_close(own({"weight": theta["weight"]}, {"input": x}), model(x).square())


def test_a_criterion_with_the_number_of_its_terms() -> None:
    z, y = torch.randn(5, 3, dtype=F64), torch.tensor([0, 1, -100, 2, 2])
    loss = outer_loss(nn.CrossEntropyLoss(), "mean")
    value, weight = loss(z, (None, y))
    assert float(weight) == 4  # what is ignored does not count
    torch.testing.assert_close(value, nn.functional.cross_entropy(z, y))
    summed = outer_loss(nn.CrossEntropyLoss(reduction="sum"), "sum")
    torch.testing.assert_close(summed(z, (None, y)), nn.functional.cross_entropy(z, y, reduction="sum"))


def test_gaussian_outputs_are_a_pair() -> None:
    mean, variance, y = (
        torch.randn(4, 2).double(),
        torch.rand(4, 2).double() + 0.1,
        torch.randn(4, 2).double(),
    )
    value = outer_loss(nn.GaussianNLLLoss(), "mean")((mean, variance), (None, y))
    expected = 0.5 * (variance.log() + (mean - y) ** 2 / variance).mean()
    torch.testing.assert_close(value, expected)


def test_a_function_is_taken_as_it_is() -> None:
    def loss(z: torch.Tensor, batch: object) -> torch.Tensor:
        return z.sum()

    assert outer_loss(loss, "mean") is loss
    assert is_criterion(nn.MSELoss()) and not is_criterion(loss) and not is_criterion(nn.Linear(1, 1))
    y = torch.arange(3)
    assert targets_beside({"a": torch.zeros(2)}, (None, y)) is y


def test_refusals() -> None:
    with pytest.raises(TypeError, match=r"loss must be a function of \(outputs, batch\), got int"):
        outer_loss(3, "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='the loss has reduction="sum"; pass the operator the same'):
        outer_loss(nn.MSELoss(reduction="sum"), "mean")
    func, theta = model_outputs(nn.Linear(3, 2), None, None)
    with pytest.raises((TypeError, ValueError), match=r"the model is called on x of batches \(x, y\), got"):
        func(theta, torch.zeros(3))
    with pytest.raises((TypeError, ValueError), match=r"a loss module takes y of batches \(x, y\), got"):
        outer_loss(nn.MSELoss(), "mean")(torch.zeros(3), torch.zeros(3))
