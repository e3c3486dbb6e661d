"""Traces: what they are, what they cost, when they stop, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator

from hvplib import ConvergenceError, Diagonal, FunctionOperator, Identity, Matrix, Status
from hvplib.estimate import Exact, Hutchinson, HutchPP, XDiag, XNysTrace, XTrace
from hvplib.estimate.methods import TRACE
from hvplib.estimate.trace import trace
from hvplib.results.estimate import EstimateProgress
from tests.estimate.spectra import SPECTRA, with_spectrum

F64 = torch.float64
RANDOM = ["hutchinson", "hutch++", "xtrace", "xnystrace"]
ANY_SQUARE = ["hutchinson", "xtrace", "exact"]


def nonsymmetric(n: int = 30) -> torch.Tensor:
    return torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=F64) + torch.eye(n, dtype=F64)


@pytest.mark.parametrize("method", TRACE)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", ["flat", "power 1", "exponential", "low rank"])
def test_the_truth_is_within_the_interval(method: str, name: str, dtype: torch.dtype) -> None:
    A = with_spectrum(name, 60, dtype)
    truth = float(A.matrix.double().diagonal().sum())
    # Half a length more on both sides: one seed in 20 misses, far fewer by so much.
    result = trace(A, method=method, max_matvecs=60, generator=3)
    low, high = result.interval
    assert abs(truth - (low + high) / 2) <= 2 * result.error
    assert result.success and math.isfinite(result.stderr) and result.num_matvecs <= 60


@pytest.mark.parametrize("method", ANY_SQUARE)
def test_any_square_operator(method: str) -> None:
    A = nonsymmetric()
    result = trace(A, method=method, max_matvecs=60)
    assert abs(result.value - float(A.trace())) <= 2 * result.error


@pytest.mark.parametrize("method", TRACE)
def test_all_kinds_of_matrices_give_the_same(method: str) -> None:
    A = with_spectrum("power 1", 40)
    reference = trace(A, method=method, max_matvecs=60).value
    dense = A.matrix.numpy()
    for same in (A.matrix, dense, scipy.sparse.csr_array(dense), aslinearoperator(dense)):
        assert trace(same, method=method, max_matvecs=60).value == pytest.approx(reference, rel=1e-9)


@pytest.mark.parametrize("method", [Hutchinson, HutchPP, XTrace, XNysTrace])
def test_blocks_change_nothing_but_rounding(method: type) -> None:
    A = with_spectrum("power 1", 60)
    values = [trace(A, method=method(block_size=b), max_matvecs=45, generator=1).value for b in (1, 7, 100)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-11)


@pytest.mark.parametrize("method", RANDOM)
def test_seeds(method: str) -> None:
    A = with_spectrum("flat", 60)
    state = torch.get_rng_state()
    first, same, other = (trace(A, method=method, max_matvecs=30, generator=seed) for seed in (1, 1, 2))
    assert first.value == same.value != other.value
    assert trace(A, method=method, max_matvecs=30).value == trace(A, method=method, max_matvecs=30).value
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("method", TRACE)
def test_products_are_counted(method: str) -> None:
    A = with_spectrum("slow exponential", 60)
    result = trace(A, method=method, max_matvecs=60)
    assert result.num_matvecs == A.num_matvecs == 60
    purposes = {"exact": ["unit vectors"], "hutchinson": ["samples"], "xnystrace": ["sketch"]}
    both = {"hutch++": ["sketch", "projection", "samples"], "xtrace": ["sketch", "projection"]}
    assert list(result.matvecs) == (purposes | both)[method]


@pytest.mark.parametrize("method", RANDOM)
@pytest.mark.parametrize("tolerance", [{"rtol": 0.1}, {"atol": 0.5}])
def test_a_tolerance_ends_it(method: str, tolerance: dict[str, float]) -> None:
    A = with_spectrum("power 1", 100)
    result = trace(A, method=method, max_matvecs=5000, **tolerance)
    allowed = tolerance.get("atol", 0.1 * abs(result.value))
    assert result.status is Status.ESTIMATED and result.error <= allowed == pytest.approx(result.tolerance)
    assert result.num_matvecs < 1000 and result.num_samples >= 16
    assert torch.equal(
        result.history[-1], torch.tensor([result.num_matvecs, result.value, result.error], dtype=F64)
    )


@pytest.mark.parametrize("method", RANDOM)
def test_too_few_products_are_said_to_be(method: str) -> None:
    A = with_spectrum("power 1/2", 200)
    with pytest.raises(
        ConvergenceError, match="the products allowed were spent before the error came"
    ) as caught:
        trace(A, method=method, rtol=1e-4, max_matvecs=60)
    assert caught.value.status is Status.MAX_MATVECS
    result = trace(A, method=method, rtol=1e-4, max_matvecs=60, throw=False)
    assert result.value == caught.value.result.value and result.error > result.tolerance


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
def test_a_low_rank_is_seen_exactly_and_costs_no_more(method: str) -> None:
    A = with_spectrum("low rank", 200)
    result = trace(A, method=method)
    assert result.status is Status.EXACT and result.stderr == 0 and result.num_matvecs == 13
    assert abs(result.value - 5) <= result.error < 1e-12
    zero = trace(Matrix(torch.zeros(70, 70)), method=method)
    assert zero.value == 0 and zero.status is Status.EXACT and zero.interval == (0, 0)


def test_nystrom_of_a_low_rank() -> None:
    result = trace(with_spectrum("low rank", 200), method="xnystrace", max_matvecs=20)
    assert abs(result.value - 5) <= result.error < 1e-11


@pytest.mark.parametrize("method", RANDOM)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_tiny_operators(method: str, n: int) -> None:
    A = Matrix(torch.ones(n, n, dtype=F64), symmetric=True, positive_semidefinite=True)
    result = trace(A, method=method, max_matvecs=40)
    assert abs(result.value - n) <= max(result.error, 1e-12)
    assert trace(A, method=method, max_matvecs=3).num_matvecs <= 3


def test_a_multiple_of_the_identity_has_no_spread() -> None:
    for method in ("hutchinson", Hutchinson(distribution="sphere")):
        result = trace(3.0 * Identity(50, dtype=F64), method=method, max_matvecs=20)
        assert result.value == pytest.approx(150, rel=1e-14) and result.error < 1e-10
    assert (
        trace(3.0 * Identity(50, dtype=F64), method=Hutchinson(distribution="normal"), max_matvecs=20).stderr
        > 1
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("method", TRACE)
def test_products_that_are_not_finite(method: str, bad: float) -> None:
    A = FunctionOperator(lambda X: X * bad, (70, 70), dtype=F64, symmetric=True)
    with pytest.raises(
        ConvergenceError, match="a product, the preconditioner or the input gave NaN or infinity"
    ):
        trace(A, method=method, max_matvecs=70)
    result = trace(A, method=method, max_matvecs=70, throw=False)
    assert result.status is Status.NON_FINITE and not math.isfinite(result.value)


def test_an_indefinite_operator_is_no_semidefinite_one() -> None:
    A = with_spectrum("indefinite", 60)
    with pytest.raises(
        ConvergenceError, match="A is not positive semidefinite: a vector x with xᵀA x < 0 was met"
    ):
        trace(A, method="xnystrace", max_matvecs=20)
    assert trace(A, method="xnystrace", max_matvecs=20, throw=False).status is Status.INDEFINITE


@pytest.mark.parametrize("rtol", [None, 1e-9])
@pytest.mark.parametrize("method", RANDOM)
def test_the_time_limit(method: str, rtol: float | None) -> None:
    A = with_spectrum("power 1", 60)
    result = trace(A, method=method, max_matvecs=120, rtol=rtol, time_limit=1e-9)  # raises nothing
    assert result.status is Status.TIME_LIMIT and not result.success and result.num_samples == 8
    assert result.interval[0] < float(A.matrix.trace()) < result.interval[1]
    in_time = trace(A, method=method, max_matvecs=120, time_limit=1e6)
    assert in_time.status is Status.ESTIMATED


def test_the_callback_still_stops_it_before_the_time_limit() -> None:
    A = with_spectrum("power 1", 60)
    result = trace(A, method="hutchinson", time_limit=1e6, callback=lambda _: True, max_matvecs=50)
    assert result.status is Status.STOPPED
    with pytest.raises(ValueError, match="time_limit must be positive seconds, got 0"):
        trace(A, time_limit=0)


@pytest.mark.parametrize("method", RANDOM)
def test_the_callback_is_told_and_may_stop_it(method: str) -> None:
    A, seen = with_spectrum("power 1", 60), []

    def callback(progress: EstimateProgress) -> bool:
        seen.append(progress)
        return progress.num_samples >= 16

    result = trace(A, method=method, max_matvecs=120, callback=callback)
    assert result.status is Status.STOPPED and result.num_samples == 16
    assert [progress.num_samples for progress in seen] == [8, 16]
    assert (seen[-1].value, seen[-1].error) == (result.value, result.error)
    assert seen[-1].num_matvecs == result.num_matvecs


@pytest.mark.parametrize(
    ("A", "options", "expected"),
    [
        (Diagonal(torch.ones(100)), {}, Exact),
        (-Diagonal(torch.ones(101)), {}, XTrace),
        (Diagonal(torch.ones(101)), {"max_matvecs": 101}, Exact),
        (Diagonal(torch.ones(64)), {"rtol": 0.5}, Exact),
        (-Diagonal(torch.ones(65)), {"rtol": 0.5}, XTrace),
        (with_spectrum("flat", 101), {}, XNysTrace),
        (with_spectrum("flat", 101), {"rtol": 0.5, "max_matvecs": 110}, Exact),
        (Identity(10**8, dtype=torch.float32), {"max_matvecs": 4}, Hutchinson),
    ],
)
def test_the_choice(A: object, options: dict[str, float], expected: type) -> None:
    if expected is Hutchinson:
        from hvplib.estimate.goal import Goal
        from hvplib.estimate.trace import _planned

        assert type(_planned(A, A, None, Goal(), 4).method) is Hutchinson  # type: ignore[arg-type]
        return
    assert type(trace(A, **options).method) is expected  # type: ignore[arg-type]


def test_exact_after_all() -> None:
    A = with_spectrum("power 1/2", 200)
    result = trace(A, rtol=1e-6)
    assert result.status is Status.EXACT and isinstance(result.method, Exact)
    assert abs(result.value - float(SPECTRA["power 1/2"](200).sum())) <= result.error
    assert result.num_matvecs == A.num_matvecs <= 400
    assert result.matvecs["unit vectors"] == 200


def test_what_is_refused() -> None:
    A = nonsymmetric()
    with pytest.raises(ValueError, match=r"A must be square, got shape \(3, 2\)"):
        trace(torch.ones(3, 2))
    with pytest.raises(ValueError, match="method must be one of 'hutchinson', 'hutch"):
        trace(A, method="hutch")
    with pytest.raises(TypeError, match="method must be a name or an instance of Hutchinson, HutchPP"):
        trace(A, method=XDiag())
    for method, kind in (("hutch++", "symmetric"), ("xnystrace", "positive semidefinite")):
        with pytest.raises(ValueError, match=f"is for a {kind} A, and A is not declared symmetric"):
            trace(Matrix(A), method=method)
        with pytest.raises(ValueError, match="A must be symmetric, but it differs from its transpose by"):
            trace(A, method=method)
    with pytest.raises(ValueError, match="max_matvecs must be at least 30 for Exact"):
        trace(A, method="exact", max_matvecs=29)
    with pytest.raises(ValueError, match="max_matvecs must be at least 2 for XTrace"):
        trace(A, method="xtrace", max_matvecs=1)
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match="max_matvecs must be a positive integer or None, got"):
            trace(A, max_matvecs=bad)  # type: ignore[arg-type]
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match="block_size must be a positive integer, got"):
            XTrace(block_size=bad)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="distribution must be one of 'rademacher', 'normal', 'sphere', got 'x'"
    ):
        Hutchinson(distribution="x")  # type: ignore[arg-type]


def test_one_sample() -> None:
    result = trace(with_spectrum("flat", 60), method="hutchinson", max_matvecs=1)
    assert result.interval == (-math.inf, math.inf) and math.isnan(result.stderr)
    assert result.note == "one sample tells nothing of its error"


def test_it_reads_well() -> None:
    text = str(trace(with_spectrum("flat", 101), rtol=0.1))
    assert "(standard error)" in text and "95 %" in text and ", allowed" in text
    assert "XNysTrace(block_size=8) (A is declared positive semidefinite)" in text
    assert "products   16: 16 sketch" in text
    assert np.isfinite(trace(np.eye(3)).value)
