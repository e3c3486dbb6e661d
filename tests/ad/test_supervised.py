"""supervised: the loss on pairs, and weights with which uneven batches add up to the loss of all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hvplib import supervised

CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 0.5])


def classes() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3), torch.tensor([0, 2, 1, -100, 1, 2])


def pixels() -> tuple[Tensor, Tensor]:
    target = torch.randint(3, (6, 4))
    target[2, 1:] = 1
    return torch.randn(6, 3, 4), target


def probabilities() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3, 4), torch.randn(6, 3, 4).softmax(1)


def values() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 2), torch.rand(6, 2)


@pytest.mark.parametrize(
    ("criterion", "make"),
    [
        (nn.CrossEntropyLoss(), classes),
        (nn.CrossEntropyLoss(ignore_index=1, label_smoothing=0.1), pixels),
        (nn.CrossEntropyLoss(weight=CLASS_WEIGHTS), classes),
        (nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, ignore_index=2), pixels),
        (nn.CrossEntropyLoss(), probabilities),
        (nn.CrossEntropyLoss(weight=CLASS_WEIGHTS), probabilities),
        (nn.NLLLoss(ignore_index=0, weight=CLASS_WEIGHTS), pixels),
        (nn.MSELoss(), values),
        (nn.HuberLoss(), values),
        (nn.BCEWithLogitsLoss(), values),
        (nn.KLDivLoss(reduction="batchmean"), values),
        (F.smooth_l1_loss, values),
    ],
)
def test_the_weighted_mean_over_parts_is_the_loss_of_all(criterion: Any, make: Any) -> None:
    torch.manual_seed(0)
    x, y = make()
    loss = supervised(criterion)
    total, weights = torch.zeros(()), 0.0
    for part in ((x[:3], y[:3]), (x[3:5], y[3:5]), (x[5:], y[5:])):
        result = loss(nn.Identity(), part)
        value, weight = result if isinstance(result, tuple) else (result, len(part[0]))
        if weight:  # the mean over nothing is not a number
            total = total + float(weight) * value
        weights += float(weight)
    torch.testing.assert_close(total / weights, criterion(x, y))


def test_a_sum_says_so_and_has_no_weight() -> None:
    loss = supervised(nn.MSELoss(reduction="sum"))
    assert loss.reduction == "sum"
    assert loss(nn.Identity(), [torch.ones(2), torch.zeros(2)]) == 2
    assert supervised(nn.MSELoss()).reduction == "mean"
    assert supervised(F.mse_loss).reduction is None


def test_tensors_go_where_the_model_is() -> None:
    model = nn.Linear(2, 1, device="meta")
    value, _ = supervised(nn.MSELoss())(model, (torch.ones(3, 2), torch.ones(3, 1)))
    assert value.device.type == "meta"


def test_refusals() -> None:
    with pytest.raises(TypeError, match=r"criterion must be a function of .output, target., got 3"):
        supervised(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='must return a scalar, but has reduction="none"'):
        supervised(nn.MSELoss(reduction="none"))
    loss = supervised(nn.MSELoss())
    with pytest.raises(
        TypeError, match=r"expects batches \(x, y\), got 3 items; write a loss\(model, batch\)"
    ):
        loss(nn.Identity(), (1, 2, 3))
    with pytest.raises(TypeError, match=r"expects batches \(x, y\), got dict"):
        loss(nn.Identity(), {"x": 1})
