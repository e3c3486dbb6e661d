"""tr f(A) and log det A: exact where small, unbiased, with intervals that hold at their rate."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from hvplib import Diagonal, FunctionOperator, LanczosQuadrature, Matrix, logdet, trace_of_function
from hvplib.estimate import function_trace as module
from hvplib.estimate.form_error import form_bounds
from hvplib.results import ConvergenceError, Status
from tests.estimate.matrices import FUNCTIONS, known, spectra

F64 = torch.float64
A = known(spectra(60)["spread"], seed=3)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_small_matrices_are_exact(name: str) -> None:
    exact = float(FUNCTIONS[name](A.spectrum).sum())
    found = trace_of_function(A.A, name)
    assert found.status is Status.EXACT and found.stderr == 0 and found.num_matvecs == 60
    assert abs(found.value - exact) <= found.bound <= 1e-9 * abs(exact) + 1e-9
    assert found.interval[0] <= exact <= found.interval[1]


def test_logdet_against_numpy_and_a_closed_form() -> None:
    assert logdet(A.A).value == pytest.approx(float(np.linalg.slogdet(A.A.numpy())[1]), rel=1e-12)
    n = 4000  # the determinant of tridiag(-1, 2, -1) is n + 1
    laplacian = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tocsr()
    shifted = laplacian + 0.1 * scipy.sparse.eye_array(n)
    found = logdet(shifted, interval=(0.1, 4.1), rtol=0.01)
    spectrum = 2.1 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    assert found.interval[0] <= np.log(spectrum).sum() <= found.interval[1]
    assert found.success and found.error <= 0.01 * abs(found.value) and found.note == ""


def slq(seed: int, name: str, spectrum: Tensor, **options: Any) -> Any:
    operator = Matrix(known(spectrum, seed=3).A, symmetric=True)
    return trace_of_function(operator, name, method="slq", generator=seed, **options)


def coverage(seeds: range, **options: Any) -> tuple[float, float]:
    """How often the interval holds the truth, and the mean error, beyond the bound on what is not chance's,
    in standard errors of the mean."""
    spectrum = torch.logspace(-1.5, 0, 60, dtype=F64)
    exact = float(spectrum.log().sum())
    runs = [slq(seed, "log", spectrum, interval=(1e-3, 1.0), **options) for seed in seeds]
    held = sum(run.interval[0] <= exact <= run.interval[1] for run in runs) / len(runs)
    off = sum(run.value - exact for run in runs) / len(runs)
    off = max(abs(off) - sum(run.bound for run in runs) / len(runs), 0.0)
    spread = math.sqrt(sum(run.stderr**2 for run in runs)) / len(runs)
    return held, off / spread


def test_intervals_and_bias() -> None:
    held, bias = coverage(range(40), max_matvecs=250)
    assert held >= 0.84 and abs(bias) < 4


def test_later_blocks_are_not_looked_at_before_they_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def counted(recurrence: Any, *arguments: Any) -> Any:
        looks.append(recurrence.steps)
        return form_bounds(recurrence, *arguments)

    monkeypatch.setattr(module, "form_bounds", counted)
    spectrum = torch.logspace(-1.5, 0, 60, dtype=F64)
    found = slq(3, "log", spectrum, interval=(1e-2, 1.0), max_matvecs=500)
    block = found.method.block_size or 16
    assert found.num_samples > 2 * block and looks[0] == 1
    later = looks[-8:]
    assert min(later) >= 6 and len(looks) < 0.7 * found.num_matvecs


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"max_matvecs": 250}, {"rtol": 0.05}])
def test_intervals_and_bias_over_1000_seeds(options: dict[str, Any]) -> None:
    held, bias = coverage(range(1000), **options)
    assert 0.93 <= held <= 0.97 and abs(bias) < 4, (held, bias)


@pytest.mark.parametrize("name", [*FUNCTIONS, "cos"])
def test_functions(name: str) -> None:
    f: Any = torch.cos if name == "cos" else name
    spectrum = spectra(60)["even"]
    exact = float((torch.cos if name == "cos" else FUNCTIONS[name])(spectrum).sum())
    found = slq(1, f, spectrum, max_matvecs=800)
    low, high = found.interval
    width = high - low
    assert low - width <= exact <= high + width  # beyond twice the interval once in 10 000 times
    assert found.stderr > 0 and found.bound < 0.1 * found.stderr


def test_two_errors_are_told_apart() -> None:
    spectrum = spectra(60)["spread"]
    exact = float(spectrum.log().sum())
    coarse = slq(1, "log", spectrum, interval=(1e-3, 1.0), max_matvecs=600)
    few = trace_of_function(
        Matrix(known(spectrum, seed=3).A, symmetric=True),
        "log",
        interval=(1e-3, 1.0),
        generator=1,
        method=LanczosQuadrature(krylov_dim=4),
        max_matvecs=600,
    )
    assert coarse.bound < 0.05 * coarse.stderr
    assert few.bound > 2 * few.stderr  # four steps do not tell log near zero
    for found in (coarse, few):
        assert found.interval[0] <= exact <= found.interval[1]


def test_a_tolerance_decides_the_number_of_samples() -> None:
    spectrum = spectra(60)["spread"]
    loose, tight = (slq(2, "log", spectrum, rtol=rtol) for rtol in (0.2, 0.03))
    assert loose.success and tight.success and tight.num_samples > 2 * loose.num_samples
    assert tight.error <= 0.03 * abs(tight.value)
    with pytest.raises(ConvergenceError, match="products allowed were spent"):
        slq(2, "log", spectrum, rtol=1e-4, max_matvecs=500)


def test_products_stay_within_the_limit() -> None:
    for limit in (30, 101, 333):
        found = slq(2, "log", spectra(60)["spread"], max_matvecs=limit)
        assert limit / 4 <= found.num_matvecs <= limit
        assert found.num_samples > 1 or found.interval[0] == -math.inf


def test_refuses_what_is_not_positive_definite() -> None:
    indefinite = torch.diag(torch.cat([torch.linspace(1, 2, 59, dtype=F64), torch.tensor([-0.5], dtype=F64)]))
    for method in ("slq", "exact"):
        with pytest.raises(ValueError, match=r"f = log is not defined at or below 0, .* reaches to -0\.[45]"):
            logdet(indefinite, method=method)
    singular = torch.diag(torch.linspace(0, 2, 60, dtype=F64))
    for method in ("slq", "exact"):
        with pytest.raises(ValueError, match="zero to within rounding"):
            logdet(singular, method=method)


def test_refuses_early() -> None:
    """At the first negative Ritz value, not when the products allowed have been spent."""
    spent = 0

    def product(X: Tensor) -> Tensor:
        nonlocal spent
        spent += X.shape[1]
        return torch.linspace(-1, 2, 500, dtype=F64).unsqueeze(1) * X

    A = FunctionOperator(product, (500, 500), dtype=F64, symmetric=True)
    with pytest.raises(ValueError, match=r"add a damping, A.shifted\(damping\), or take a function"):
        logdet(A, method="slq", max_matvecs=10_000)
    assert spent <= 16 * 3  # three steps for each vector of a block


def test_norms_and_effective_dimension() -> None:
    spectrum = torch.linspace(-1, 2, 60, dtype=F64)
    matrix = known(spectrum).A
    schatten = trace_of_function(matrix, lambda x: x.abs() ** 3).value ** (1 / 3)
    assert schatten == pytest.approx(float(np.linalg.norm(spectrum.numpy(), 3)), rel=1e-12)
    dimension = trace_of_function(A.A, lambda x: x / (x + 0.1), method="slq", max_matvecs=2000)
    exact = float((A.spectrum / (A.spectrum + 0.1)).sum())
    assert abs(dimension.value - exact) <= 5 * dimension.stderr + dimension.bound


def test_the_time_limit_and_the_callback() -> None:
    def slow(X: Tensor) -> Tensor:
        time.sleep(0.002)
        return A.A @ X

    operator = FunctionOperator(slow, (60, 60), dtype=F64, symmetric=True)
    late = logdet(operator, method="slq", time_limit=0.3, max_matvecs=10**6)
    assert late.status is Status.TIME_LIMIT and late.num_samples >= 16
    assert math.isfinite(late.interval[0])
    stopped = logdet(A.A, method="slq", callback=lambda progress: progress.num_samples >= 8)
    assert stopped.status is Status.STOPPED


def test_not_finite() -> None:
    bad = FunctionOperator(lambda X: X * math.nan, (60, 60), dtype=F64, symmetric=True)
    for method in ("slq", "exact"):
        with pytest.raises(ConvergenceError, match="NaN or infinity"):
            trace_of_function(bad, "exp", method=method)  # type: ignore[arg-type]


def test_edges() -> None:
    one = logdet(torch.tensor([[math.e]], dtype=F64))
    assert one.value == pytest.approx(1.0, rel=1e-14)
    identity = trace_of_function(Diagonal(torch.ones(50, dtype=F64)), "exp", method="slq")
    assert identity.value == pytest.approx(50 * math.e, rel=1e-12) and identity.stderr <= 1e-9
    single = known(spectra(60)["spread"], seed=3).A.float()
    found = logdet(single, method="slq", interval=(1e-3, 1.0))
    width = found.interval[1] - found.interval[0]
    assert abs(found.value - float(A.spectrum.log().sum())) <= width


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_matvecs": 0}, "max_matvecs must be a positive integer"),
        ({"method": "cholesky"}, 'method must be "slq", "exact"'),
        ({"confidence": 0.0}, "confidence must lie between 0 and 1"),
        ({"interval": (0.5, None)}, "its lower end 0.5 lies inside"),
        ({"interval": (0.5, None), "method": "slq"}, "its lower end 0.5 lies inside"),
        ({"time_limit": 0.0}, "time_limit must be positive"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logdet(A.A, **options)
    with pytest.raises(ValueError, match="krylov_dim must be a positive integer"):
        LanczosQuadrature(krylov_dim=0)
