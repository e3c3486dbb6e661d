"""The error of f(T) e₁ beside what it is, the node of Radau's rule, and intervals that do not hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib.estimate.function_error import Projected, check_interval, eigh_tridiagonal
from hvplib.estimate.spectral_function import SpectrumError, spectral_function
from hvplib.krylov.lanczos_columns import LanczosColumns
from tests.estimate.matrices import FUNCTIONS, known, spectra
from tests.krylov.systems import normal

F64 = torch.float64
A = known(spectra(60)["spread"], seed=3)
B = normal(60, seed=5).unsqueeze(1)
ENDS = (float(A.spectrum[0]), float(A.spectrum[-1]))
EPS = torch.finfo(F64).eps


def lanczos(steps: int) -> LanczosColumns:
    process = LanczosColumns(lambda X: A.A @ X, B, keep=steps, size=60)
    for _ in range(steps):
        process.step()
    return process


@pytest.mark.parametrize("steps", [1, 4, 12, 30])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_error_is_bounded_and_not_by_much(name: str, steps: int) -> None:
    process = lanczos(steps)
    projected = Projected(process.columns[0], spectral_function(name), EPS, ENDS)
    found = process.combine(0, projected.coordinates.unsqueeze(1))
    off = float((found - A.apply(FUNCTIONS[name], B)).norm())
    error = projected.error()
    assert error.certain and off <= error.truncation + error.rounding
    assert error.truncation <= 100 * off + 1e-9
    assert projected.length == pytest.approx(float(projected.coordinates.norm()), rel=1e-12)


def test_unknown_ends_are_estimates_from_outside_the_ritz_values() -> None:
    column = lanczos(8).columns[0]
    log = spectral_function("log")
    assumed = Projected(column, log, EPS, (None, ENDS[1]))
    end = assumed.end()
    assert end is not None and not end.known and not assumed.error().certain
    assert 0 < end.x < float(assumed.values[0])
    sure = Projected(column, log, EPS, ENDS).end()
    assert sure is not None and sure.known and sure.x == ENDS[0]
    upper = Projected(column, spectral_function("exp"), EPS, ENDS).end()
    assert upper is not None and upper.x >= ENDS[1]  # where the signs agree it is the other end
    assert Projected(column, spectral_function(torch.cos), EPS, ENDS).end() is None


def test_signs_that_do_not_hold_below_zero() -> None:
    shifted: Tensor = A.A - 0.1 * torch.eye(60, dtype=F64)
    process = LanczosColumns(lambda X: shifted @ X, B, keep=12, size=60)
    for _ in range(12):
        process.step()
    found = Projected(process.columns[0], spectral_function("inverse"), EPS, (None, None))
    assert found.end() is None and not found.error().certain


def test_eigenvalues_of_a_long_recurrence() -> None:
    process = LanczosColumns(
        lambda X: torch.linspace(0, 1, 400, dtype=F64).unsqueeze(1) * X, normal(400, 1), keep=250, size=400
    )
    for _ in range(250):
        process.step()
    column = process.columns[0]
    for steps in (150, 250):
        values, vectors = eigh_tridiagonal(column, steps)
        T = column.tridiagonal(steps)
        torch.testing.assert_close(vectors * values @ vectors.mT, T, rtol=0, atol=1e-13)
        assert bool((values.diff() >= 0).all())


@pytest.mark.parametrize(
    ("interval", "end"), [((0.5, None), "lower end 0.5"), ((None, 1.5), "upper end 1.5")]
)
def test_an_interval_that_does_not_hold(interval: tuple[float | None, float | None], end: str) -> None:
    values = torch.tensor([0.4, 1.0, 1.6], dtype=F64)
    with pytest.raises(SpectrumError, match=f"its {end} lies inside: A has an eigenvalue at"):
        check_interval(values, interval, 0.05)
    check_interval(values, interval, 0.11)  # within rounding
    check_interval(values, (None, None), 0.0)
