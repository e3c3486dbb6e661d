"""Norms against singular values."""

from __future__ import annotations

import math

import pytest
import torch

from hvplib import ConvergenceError, FunctionOperator, Matrix, Status
from hvplib.estimate import Exact, Hutchinson, XTrace
from hvplib.estimate.norms import frobenius_norm, schatten_norm
from tests.estimate.spectra import with_spectrum

F64 = torch.float64


def truth(A: torch.Tensor, p: int) -> float:
    return float(torch.linalg.svdvals(A.double()).pow(p).sum() ** (1 / p))


def rectangular(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=F64)


@pytest.mark.parametrize("p", [2, 4, 6, 8])
@pytest.mark.parametrize("shape", [(30, 30), (20, 50), (50, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_exactly(p: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
    A = rectangular(*shape).to(dtype)
    result = schatten_norm(A, p, max_matvecs=200, method="exact")
    assert abs(result.value - truth(A, p)) <= result.error <= 1e-5 * result.value
    assert result.status is Status.EXACT and result.num_matvecs == shape[1] * p // 2
    if p == 2:
        assert result.value == pytest.approx(float(A.norm()), rel=1e-6)


@pytest.mark.parametrize("p", [2, 4, 6])
def test_the_truth_is_in_the_interval(p: int) -> None:
    for A in (rectangular(80, 120), with_spectrum("indefinite", 100)):
        expected, held, errors = truth(A if isinstance(A, torch.Tensor) else A.matrix, p), 0, []
        for seed in range(200):
            result = schatten_norm(A, p, max_matvecs=24 * p // 2, method="hutchinson", generator=seed)
            low, high = result.interval
            held += low <= expected <= high
            errors.append((result.value - expected) / result.stderr)
        assert 180 <= held <= 199
        assert 0.8 < float(torch.tensor(errors).std()) < 1.3


def test_a_tolerance_ends_it() -> None:
    A = with_spectrum("power 1", 300)
    result = schatten_norm(A, 4, rtol=0.1, max_matvecs=10_000)
    assert result.status is Status.ESTIMATED and result.error <= result.tolerance * 1.01
    assert result.tolerance == pytest.approx(0.1 * result.value)
    assert abs(result.value - truth(A.matrix, 4)) <= 2 * result.error
    with pytest.raises(ConvergenceError, match="the products allowed were spent"):
        frobenius_norm(A, rtol=1e-4, max_matvecs=40)


def test_what_it_costs_and_chooses() -> None:
    A = rectangular(40, 101)
    assert isinstance(frobenius_norm(A).method, Hutchinson)
    assert isinstance(frobenius_norm(A, max_matvecs=101).method, Exact)
    result = schatten_norm(A, 6)
    assert result.num_matvecs == 300 and result.num_samples == 100
    assert frobenius_norm(A, generator=1).value == frobenius_norm(A, generator=1).value


def test_edges() -> None:
    assert frobenius_norm(torch.zeros(3, 3)).value == 0
    assert frobenius_norm(torch.zeros(200, 200)).interval == (0, 0)
    assert frobenius_norm(torch.full((1, 1), -2.0)).value == 2
    A = FunctionOperator(lambda X: X * math.nan, (120, 120), dtype=F64, symmetric=True)
    for method in ("hutchinson", "exact"):
        assert frobenius_norm(A, method=method, max_matvecs=120, throw=False).status is Status.NON_FINITE


def test_what_is_refused() -> None:
    A = rectangular(20, 20)
    for bad in (1, 3, 0, 2.5, True, -2):
        with pytest.raises(ValueError, match="p must be an even integer, 2 or more, got"):
            schatten_norm(A, bad)  # type: ignore[arg-type]
    for bad in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="rtol must be at least 0 and less than 1, got"):
            schatten_norm(A, 2, rtol=bad)
    with pytest.raises(ValueError, match="max_matvecs must be at least 40 for Exact"):
        schatten_norm(A, 4, method="exact", max_matvecs=39)
    with pytest.raises(TypeError, match="method must be a name or an instance of Hutchinson, Exact"):
        schatten_norm(A, 4, method=XTrace())
    only = FunctionOperator(lambda X: X, (120, 120), dtype=F64)
    with pytest.raises(NotImplementedError, match="transpose"):
        schatten_norm(only, 4)
    assert frobenius_norm(only, max_matvecs=10).value == pytest.approx(math.sqrt(120))
    assert frobenius_norm(Matrix(A)).value == pytest.approx(float(A.norm()))
