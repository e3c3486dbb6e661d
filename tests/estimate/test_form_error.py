"""Bounds of bᵀ f(A) b: in order, on the sides that are said, and certain only where they are."""

from __future__ import annotations

import pytest
import torch

from hvplib.estimate.form_error import FormBounds, form_bounds
from hvplib.estimate.spectral_function import spectral_function
from hvplib.krylov.lanczos_columns import LanczosColumns
from tests.estimate.matrices import FUNCTIONS, known, spectra
from tests.krylov.systems import normal

F64 = torch.float64
A = known(spectra(60)["spread"], seed=3)
B = normal(60, seed=5).unsqueeze(1)
ENDS = (float(A.spectrum[0]), float(A.spectrum[-1]))


def bounds(name: str, steps: int, interval: tuple[float | None, float | None]) -> FormBounds:
    lanczos = LanczosColumns(lambda X: A.A @ X, B, keep=steps, size=60)
    for _ in range(steps):
        lanczos.step()
    return form_bounds(lanczos.columns[0], spectral_function(name), 2.2e-16, interval)


@pytest.mark.parametrize("steps", [1, 3, 8, 20])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_with_both_ends_known_both_sides_are_bounds(name: str, steps: int) -> None:
    exact = float(A.form(FUNCTIONS[name], B)[0])
    found = bounds(name, steps, ENDS)
    assert found.certain == (True, True)
    assert found.lower - found.rounding <= exact <= found.upper + found.rounding
    # Gauss is the lower one for even derivatives above zero, else the upper one.
    assert found.value == (found.lower if name in ("exp", "inv_sqrt", "inverse") else found.upper)
    assert float(found.weights.sum()) == pytest.approx(float(B.square().sum()), rel=1e-12)
    assert float(found.weights @ FUNCTIONS[name](found.nodes)) == pytest.approx(found.value, rel=1e-10)


def test_more_steps_are_narrower() -> None:
    widths = [found.upper - found.lower for found in (bounds("log", steps, ENDS) for steps in (2, 6, 18))]
    assert widths[0] > 3 * widths[1] > 9 * widths[2] > 0


def test_without_the_end_that_radau_needs_one_side_is_an_estimate() -> None:
    found = bounds("log", 8, (None, ENDS[1]))
    assert found.certain == (False, True)  # that of Gauss is above, whatever is known of the lower end
    exact = float(A.form(torch.log, B)[0])
    assert exact <= found.upper + found.rounding and found.lower < found.value


def test_a_function_of_unknown_derivatives_has_estimates_alone() -> None:
    exact = float(A.form(torch.cos, B)[0])
    for steps in (1, 4, 10):
        lanczos = LanczosColumns(lambda X: A.A @ X, B, keep=steps, size=60)
        for _ in range(steps):
            lanczos.step()
        found = form_bounds(lanczos.columns[0], spectral_function(torch.cos), 2.2e-16, ENDS)
        assert found.certain == (False, False) and found.upper - found.value == found.value - found.lower
        assert found.lower - found.rounding <= exact <= found.upper + found.rounding


def test_an_invariant_subspace_leaves_no_error() -> None:
    vector = torch.eye(60, dtype=F64)[[0, 5]].sum(0).unsqueeze(1)
    lanczos = LanczosColumns(lambda X: A.spectrum.unsqueeze(1) * X, vector, keep=10, size=60)
    while lanczos.open:
        lanczos.step()
    found = form_bounds(lanczos.columns[0], spectral_function("log"), 2.2e-16, (None, None))
    assert found.lower == found.value == found.upper and found.certain == (True, True)
    assert found.value == pytest.approx(float(A.spectrum[[0, 5]].log().sum()), rel=1e-8)
