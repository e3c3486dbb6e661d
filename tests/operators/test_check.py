"""check_operator finds each kind of lie, and says when it cannot tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hvplib import FunctionOperator, HessianOperator, Matrix, Operator, check_operator
from tests.contracts import numbers, regression, symmetric


def failed(operator: Operator) -> list[str]:
    return [check.name for check in check_operator(operator).checks if check.passed is False]


def function(matmat: Callable[[Tensor], Tensor], **options: object) -> Operator:
    return FunctionOperator(matmat, (4, 4), dtype=torch.float64, **options)  # type: ignore[arg-type]


LOWER = torch.ones(4, 4, dtype=torch.float64).tril()


def test_lies_are_found() -> None:
    assert failed(function(lambda X: X + 1)) == ["linearity"]
    assert failed(function(lambda X: X + 1e-7 * X**2)) == ["linearity"]
    assert failed(function(lambda X: LOWER @ X, symmetric=True)) == ["symmetry"]
    assert failed(function(lambda X: LOWER @ X, rmatmat=lambda X: LOWER @ X)) == ["transpose"]
    assert failed(function(lambda X: -X, positive_semidefinite=True)) == ["positive semidefinite"]
    assert failed(function(lambda X: X.flip(1) if X.shape[1] > 1 else X, symmetric=True))[:1] == [
        "a block against its columns"
    ]
    noise = torch.Generator().manual_seed(0)
    assert "called twice" in failed(function(lambda X: X * torch.rand((), generator=noise)))


def test_truths_pass() -> None:
    assert check_operator(Matrix(symmetric(5, torch.float64))).ok is True
    assert check_operator(Matrix(numbers(3, 5, dtype=torch.float32))).ok is True
    names = [check.name for check in check_operator(function(lambda X: X, rmatmat=lambda X: X)).checks]
    assert names == ["called twice", "a block against its columns", "linearity", "transpose"]
    assert [c.name for c in check_operator(function(lambda X: X)).checks] == names[:3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_hessian_is_held_against_its_gradients(dtype: torch.dtype) -> None:
    operator, _ = regression(dtype)
    report = check_operator(operator)
    assert report.ok is True
    assert [check.name for check in report.checks][-1] == "difference of gradients"


class Wrong(HessianOperator):
    """Symmetric and linear, and yet not the Hessian."""

    def _matmat_torch(self, X: Tensor) -> Tensor:
        return super()._matmat_torch(X) * 1.01


def test_a_symmetric_linear_wrong_hessian_is_found() -> None:
    operator = Wrong(lambda x: (x**4).sum(), torch.linspace(1, 2, 5, dtype=torch.float64))
    assert failed(operator) == ["difference of gradients"]


def test_kinks_are_inconclusive() -> None:
    x = torch.zeros(3, dtype=torch.float64)
    report = check_operator(
        HessianOperator(lambda x: (x.abs() ** 1.5).sum() + (x**2).sum(), x + 1e-12, verify=False)
    )
    assert report.ok is None and "inconclusive" in str(report)


def test_noise_of_the_loss_is_held_fixed() -> None:
    operator = HessianOperator(
        lambda x: (torch.nn.functional.dropout(x, 0.5) ** 4).sum(), torch.ones(20, dtype=torch.float64)
    )
    assert check_operator(operator).ok is True


def test_a_loss_that_computes_in_float32_inside_is_held_to_float32() -> None:
    operator = HessianOperator(lambda x: (x.float() ** 4).sum(), torch.linspace(1, 2, 5, dtype=torch.float64))
    assert check_operator(operator).ok is not False


def test_the_report_reads_well() -> None:
    text = str(check_operator(Matrix(torch.eye(2))))
    assert text.startswith("right: every check passed\n  called twice: ok (relative error")


def test_only_operators_are_checked() -> None:
    with pytest.raises(TypeError, match="operator must be an hvplib Operator, got Tensor"):
        check_operator(torch.eye(2))  # type: ignore[arg-type]
