"""What operators over data share: checked options, the weighted mean of terms, where a weight comes from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.ad.report import Report
from hvplib.operators.over_data import (
    DataOptions,
    LossOperator,
    copied,
    loss_and_weight,
    no_bar,
    progress_bar,
)

F64 = torch.float64


def options(data: Any = (1.0,), **changes: Any) -> DataOptions:
    given: dict[str, Any] = {
        "weight": None,
        "reduction": "mean",
        "verify": False,
        "check_deterministic": False,
        "memory_budget": "auto",
        "seed": 0,
        "progress": False,
    }
    return DataOptions(data, **(given | changes))


class Term:
    """½ a ‖x‖² with weight a: H = a I, and the gradient a x, at x = point."""

    transferable, report = True, Report("by hand")
    nbytes = bytes_per_vector = 8

    def __init__(self, a: float, point: dict[str, Tensor]) -> None:
        self.aux, self._point = a, point
        self.value = a / 2 * sum((x.square().sum() for x in point.values()), torch.zeros((), dtype=F64))

    @property
    def gradient(self) -> dict[str, Tensor]:
        return self.hvp(self._point)

    def hvp(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.aux * x for name, x in v.items()}

    hvp_block = hvp

    def release(self) -> None:
        pass


POINT = {"x": torch.tensor([1.0, -2.0], dtype=F64), "y": torch.tensor(3.0, dtype=F64)}


def operator(data: Any = (1.0, 2.0, 5.0), *, with_gradient: bool = True, **changes: Any) -> LossOperator:
    return LossOperator(
        lambda point, arguments, index, verify, value, may_keep: Term(arguments[0], point),
        POINT,
        options(data, **changes),
        noisy_modules=["dropout"],
        with_gradient=with_gradient,
    )


@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.parametrize("budget", ["auto", 0])
def test_a_weighted_mean_or_a_sum(budget: Any, with_gradient: bool) -> None:
    v = torch.tensor([1.0, 2.0, 4.0], dtype=F64)
    x = torch.tensor([1.0, -2.0, 3.0], dtype=F64)
    # Σ w a / Σ w with w = a.
    mean = (1 + 4 + 25) / 8
    A = operator(memory_budget=budget, with_gradient=with_gradient)
    torch.testing.assert_close(A @ v, mean * v, rtol=1e-14, atol=0)
    torch.testing.assert_close(A @ torch.stack([v, x], 1), mean * torch.stack([v, x], 1))
    torch.testing.assert_close(A.flat_gradient, mean * x)
    torch.testing.assert_close(A.gradient["y"], mean * POINT["y"])
    assert float(A.value) == pytest.approx(mean * 7) and A.total_weight == 8
    assert (A.num_batches, A.num_kept) == (3, 3 if budget == "auto" else 0)
    assert A.symmetric and not A.positive_semidefinite and str(A.report) == str(Report("by hand"))
    total = operator(reduction="sum", memory_budget=budget, with_gradient=with_gradient)
    torch.testing.assert_close(total @ v, 30 * v)
    assert float(total.value) == pytest.approx(30 * 7)
    torch.testing.assert_close(total.flat_gradient, 30 * x)


def test_the_point_is_a_copy_and_noise_is_told() -> None:
    A = operator()
    assert A.notes == ("dropout keeps one noise, or the statistics of each batch",)
    assert all(A.primals[name].data_ptr() != x.data_ptr() for name, x in POINT.items())
    narrow = torch.arange(6.0).reshape(2, 3).mT
    assert copied(narrow).is_contiguous() and torch.equal(copied(narrow), narrow)
    assert not copied(narrow.clone().requires_grad_()).requires_grad


def test_a_single_term_is_asked_directly() -> None:
    A = operator((1.0,))
    tree = A @ {"x": torch.ones(2, dtype=F64), "y": torch.tensor(2.0, dtype=F64)}
    assert torch.equal(tree["x"], torch.ones(2, dtype=F64)) and float(tree["y"]) == 2


def test_options_elsewhere_keep_all_but_the_checks() -> None:
    A = operator(seed=7, verify=True)
    elsewhere = A._options_elsewhere()
    assert elsewhere["seed"] == 7 and elsewhere["check_deterministic"] is False
    assert elsewhere["verify"] is False  # the first term is transferable: proven once


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"reduction": "max"}, ValueError, 'reduction must be "mean" or "sum", got \'max\''),
        ({"weight": 3.0}, TypeError, "weight must be a function of a batch, got float"),
        ({"weight": len, "reduction": "sum"}, ValueError, "weight is for means over data; leave it out"),
        ({"weight": len, "data": None}, ValueError, "weight is for means over data; leave it out"),
        ({"memory_budget": -1}, ValueError, 'memory_budget must be "auto", a number of bytes'),
        ({"memory_budget": 1.5}, ValueError, r"a share of the free memory \(a float up to 1\), got 1.5"),
        ({"seed": -3}, ValueError, "seed must be a non-negative integer, got -3"),
    ],
)
def test_options_are_checked(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        options(**changes)


def test_sources_of_a_weight() -> None:
    batch = torch.ones(5, 2)
    assert loss_and_weight(lambda p, b: p, None, "mean", (batch,), 1.0) == (1.0, 5)
    assert loss_and_weight(lambda p, b: p, len, "mean", ("abc",), 1.0) == (1.0, 3)
    assert loss_and_weight(lambda p, b: (p, 9.0), None, "mean", (batch,), 1.0) == (1.0, 9.0)
    assert loss_and_weight(lambda p, b: p, None, "sum", (batch,), 1.0) == (1.0, 1.0)
    assert loss_and_weight(lambda p: p, None, "mean", (), 1.0) == (1.0, 1.0)
    with pytest.raises(ValueError, match="the loss returns a weight and weight= gives another"):
        loss_and_weight(lambda p, b: (p, 9.0), len, "mean", (batch,), 1.0)
    with pytest.raises(ValueError, match='a sum \\(reduction="sum"\\) has no use for; return the loss alone'):
        loss_and_weight(lambda p, b: (p, 9.0), None, "sum", (batch,), 1.0)


def test_bars(capsys: pytest.CaptureFixture[str]) -> None:
    items = [1, 2]
    assert no_bar(items, "product", 2) is items
    assert list(progress_bar(items, "product", 2)) == items
    assert "product" in capsys.readouterr().err
