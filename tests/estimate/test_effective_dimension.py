"""Effective dimensions against eigenvalues."""

from __future__ import annotations

import math

import pytest
import torch

from hvplib import (
    ConvergenceError,
    Diagonal,
    FunctionOperator,
    LanczosQuadrature,
    Matrix,
    NystromPreconditioner,
    Status,
)
from hvplib.estimate import Exact, Hutchinson, XTrace
from hvplib.estimate.effective_dimension import effective_dimension
from tests.estimate.spectra import SPECTRA, with_spectrum

F64 = torch.float64


def truth(name: str, n: int, damping: float) -> float:
    values = SPECTRA[name](n)
    return float((values / (values + damping)).sum())


@pytest.mark.parametrize("name", ["flat", "power 2", "exponential", "low rank"])
@pytest.mark.parametrize("damping", [1e-4, 0.1, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_exactly(name: str, damping: float, dtype: torch.dtype) -> None:
    result = effective_dimension(with_spectrum(name, 60, dtype), damping)
    assert result.status is Status.EXACT and isinstance(result.method, Exact) and result.num_matvecs == 60
    assert abs(result.value - truth(name, 60, damping)) <= result.error
    assert result.error < (1e-8 if dtype == F64 else 0.5)


@pytest.mark.parametrize("name", ["flat", "power 2", "low rank", "slow exponential"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_intervals_hold_what_they_say(name: str, dtype: torch.dtype) -> None:
    A, held = with_spectrum(name, 100, dtype), 0
    for seed in range(150):
        result = effective_dimension(A, 0.05, method="hutchinson", generator=seed)
        low, high = result.interval
        held += low <= truth(name, 100, 0.05) <= high
    assert 134 <= held <= 149
    assert result.num_samples == 32 and set(result.matvecs) == {"solves", "confirmation"}


@pytest.mark.parametrize("solver_rtol", [0.9, 0.1, 1e-2])
def test_what_the_solves_leave_is_in_the_interval(solver_rtol: float) -> None:
    A = with_spectrum("power 2", 100)
    exact = effective_dimension(A, 1e-3, method="hutchinson", solver_rtol=1e-10)
    rough = effective_dimension(A, 1e-3, method="hutchinson", solver_rtol=solver_rtol)
    # The same random vectors: they differ by the solves alone.
    assert 0 < abs(rough.value - exact.value) <= rough.bound
    assert exact.bound < 1e-9 and rough.num_matvecs < exact.num_matvecs


def test_the_middle_of_what_is_possible_is_taken() -> None:
    # One step of the solve leaves a residual in the null space, where rᵀ(A + δ I)⁻¹r is all of ‖r‖² / δ, and
    # one elsewhere, where it is next to nothing: the truth is well to one side of the middle, and within.
    A = Diagonal(torch.cat([torch.full((40,), 100.0), torch.zeros(10)]).double())
    exact = effective_dimension(A, 1.0, method="hutchinson", solver_rtol=1e-12)
    rough = effective_dimension(A, 1.0, method="hutchinson", solver_rtol=0.999)
    assert -1 <= (exact.value - rough.value) / rough.bound < -0.5


def test_a_tolerance_and_a_limit() -> None:
    A = with_spectrum("power 1", 300)
    result = effective_dimension(A, 1e-2, method="hutchinson", rtol=0.05)
    assert result.status is Status.ESTIMATED and result.error <= result.tolerance
    assert abs(result.value - truth("power 1", 300, 1e-2)) <= 2 * result.error
    with pytest.raises(ConvergenceError, match="the products allowed were spent"):
        effective_dimension(A, 1e-2, method="hutchinson", rtol=1e-4, max_matvecs=1000)
    few = effective_dimension(A, 1e-2, method="hutchinson", max_matvecs=400)
    assert few.num_matvecs <= 450 and "the products allowed were enough for" in few.note


def test_a_preconditioner_saves_products() -> None:
    A = with_spectrum("power 2", 600)
    plain = effective_dimension(A, 1e-4, max_matvecs=100_000)
    P = NystromPreconditioner(A, rank=100, damping=1e-4)
    fast = effective_dimension(A, 1e-4, preconditioner=P, max_matvecs=100_000)
    assert isinstance(plain.method, Hutchinson)
    assert fast.num_matvecs < plain.num_matvecs / 2
    assert fast.value == pytest.approx(plain.value, abs=plain.bound + fast.bound)


@pytest.mark.parametrize("method", ["hutchinson", "slq", "exact"])
def test_indefinite_and_not_finite(method: str) -> None:
    A = with_spectrum("indefinite", 60)
    with pytest.raises(ConvergenceError, match="A is not positive semidefinite"):
        effective_dimension(A, 0.1, method=method)
    bad = FunctionOperator(lambda X: X * math.nan, (60, 60), dtype=F64, symmetric=True)
    assert effective_dimension(bad, 0.1, method=method, throw=False).status is Status.NON_FINITE


def test_edges_and_refusals() -> None:
    one = torch.full((1, 1), 3.0, dtype=F64)
    for method in ("hutchinson", "exact"):
        assert effective_dimension(one, 1.0, method=method).value == pytest.approx(0.75, rel=1e-7)
        assert effective_dimension(0 * one, 1.0, method=method).value == pytest.approx(0, abs=1e-12)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="damping must be positive and finite, got"):
            effective_dimension(one, bad)
    for bad in (0.0, 1.0):
        with pytest.raises(ValueError, match="solver_rtol must lie between 0 and 1, got"):
            effective_dimension(one, 1.0, solver_rtol=bad)
    with pytest.raises(ValueError, match='distribution must be "rademacher" here'):
        effective_dimension(one, 1.0, method=Hutchinson(distribution="normal"))
    with pytest.raises(TypeError, match="method must be a name or an instance of Hutchinson, Exact"):
        effective_dimension(one, 1.0, method=XTrace())
    with pytest.raises(ValueError, match="max_matvecs must be at least 9 for Exact"):
        effective_dimension(torch.eye(9), 1.0, method="exact", max_matvecs=8)
    with pytest.raises(ValueError, match="A is not declared symmetric"):
        effective_dimension(Matrix(torch.tensor([[1.0, 2.0], [0.0, 1.0]])), 1.0)


def test_by_quadrature() -> None:
    A = with_spectrum("power 1", 300)
    results = [effective_dimension(A, 1e-2, method="slq", generator=seed) for seed in range(3)]
    exact = truth("power 1", 300, 1e-2)
    assert sum(low <= exact <= high for low, high in (r.interval for r in results)) >= 2
    for result in results:
        assert result.status is Status.ESTIMATED and 900 <= result.num_matvecs <= 1000
        assert 0 < result.bound < 0.1 * result.stderr and result.note == ""  # bounds for certain
    # What is asked for is semidefinite, declared so or not.
    assert effective_dimension(Matrix(A.matrix, symmetric=True), 1e-2, method="slq").note == ""
    tight = effective_dimension(A, 1e-2, method="slq", rtol=0.05)
    assert tight.error <= tight.tolerance and abs(tight.value - exact) <= 2 * tight.error
    few = effective_dimension(A, 1e-2, method=LanczosQuadrature(krylov_dim=4), max_matvecs=400)
    assert few.bound > few.stderr and few.interval[0] <= exact <= few.interval[1]
    with pytest.raises(ValueError, match='"slq" makes no solves, so it has no use for preconditioner'):
        effective_dimension(A, 1e-2, method="slq", preconditioner=lambda X: X)


def test_a_singular_matrix_by_quadrature() -> None:
    A = Diagonal(torch.cat([torch.ones(30), torch.zeros(70)]).double())
    result = effective_dimension(A, 0.5, method="slq")
    assert result.value == pytest.approx(20.0, rel=1e-10) and result.stderr < 1e-10
