"""Norms against singular values."""

from __future__ import annotations

import math
from typing import Any

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


@pytest.mark.parametrize("p", [1, 1.5, 3, 5])
@pytest.mark.parametrize("shape", [(30, 30), (20, 50), (50, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_other_orders_exactly(p: float, shape: tuple[int, int], dtype: torch.dtype) -> None:
    A = rectangular(*shape).to(dtype)
    result = schatten_norm(A, p)
    assert abs(result.value - truth(A, p)) <= result.error <= 1e-4 * result.value
    assert result.status is Status.EXACT and result.num_matvecs == shape[1]
    if p == 1:
        assert result.value == pytest.approx(float(torch.linalg.matrix_norm(A, "nuc")), rel=1e-5)


@pytest.mark.parametrize("p", [1, 3])
def test_other_orders_by_quadrature(p: int) -> None:
    """Of matrices that are indefinite, semidefinite, and not square."""
    for A in (with_spectrum("indefinite", 100), with_spectrum("power 1", 100), rectangular(60, 80)):
        expected = truth(A if isinstance(A, torch.Tensor) else A.matrix, p)
        options: dict[str, Any] = {"method": "slq", "max_matvecs": 500}
        results = [schatten_norm(A, p, generator=seed, **options) for seed in range(3)]
        assert sum(low <= expected <= high for low, high in (r.interval for r in results)) >= 2
        for result in results:
            assert result.num_matvecs <= 500 and result.bound < result.stderr
            assert result.error < 0.5 * result.value
            assert result.history[-1, 0] == result.num_matvecs and result.reason == "as given"
            assert result.history[-1, 1] == pytest.approx(result.value, rel=1e-12)


def test_products_with_the_transpose_count() -> None:
    A, counts = rectangular(40, 60), [0, 0]

    def forward(X: torch.Tensor) -> torch.Tensor:
        counts[0] += X.shape[1]
        return A @ X

    def back(X: torch.Tensor) -> torch.Tensor:
        counts[1] += X.shape[1]
        return A.mT @ X

    operator = FunctionOperator(forward, (40, 60), dtype=F64, rmatmat=back)
    result = schatten_norm(operator, 1, method="slq", max_matvecs=400)
    assert counts[0] == counts[1] and result.num_matvecs == sum(counts) <= 400


def test_a_tolerance_for_other_orders() -> None:
    A = with_spectrum("power 1", 300)
    result = schatten_norm(A, 3, method="slq", rtol=0.1)
    assert result.status is Status.ESTIMATED and result.error <= result.tolerance * 1.01
    assert result.tolerance == pytest.approx(0.1 * result.value)
    with pytest.raises(ConvergenceError, match="the products allowed were spent"):
        schatten_norm(A, 1, method="slq", rtol=1e-6, max_matvecs=200)
    bad = FunctionOperator(lambda X: X * math.nan, (60, 60), dtype=F64, symmetric=True)
    for method in ("slq", "exact"):
        assert schatten_norm(bad, 1, method=method, throw=False).status is Status.NON_FINITE


def test_refusals_of_orders() -> None:
    A = rectangular(3, 3)
    for p in (0.5, 0, -2, math.inf, math.nan, True):
        with pytest.raises(ValueError, match="p must be a number, 1 or more and finite, got"):
            schatten_norm(A, p)
    with pytest.raises(
        ValueError, match='method must be "slq", "exact", a LanczosQuadrature or None for p = 3'
    ):
        schatten_norm(A, 3, method="hutchinson")
    with pytest.raises(ValueError, match="max_matvecs must be at least 3 for all singular values, got 2"):
        schatten_norm(A, 3, method="exact", max_matvecs=2)
    with pytest.raises(ValueError, match="max_matvecs must be a positive integer or None, got 0"):
        schatten_norm(A, 3, max_matvecs=0)
    zero = schatten_norm(0 * A, 1)
    assert zero.value == 0 == zero.error
