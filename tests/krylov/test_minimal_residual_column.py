"""Decisions of one column, from numbers made up for them. What they are worth is in test_minimal_residual."""

from __future__ import annotations

import math

import pytest

from hvplib.krylov.minimal_residual_column import Column, Start, StepSums
from hvplib.results.status import Status

EPS = 2.0**-52


def column(**changes: float) -> Column:
    start = {"r_norm": 2.0, "beta_squared": 1.0, "x_norm": 0.0, "target": 1e-9, "b_scale": 0.5, **changes}
    return Column(3, Start(**start), EPS)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, None),
        ({"target": 2.0}, Status.CONVERGED),
        ({"r_norm": 0.0, "target": 0.0, "beta_squared": 0.0}, Status.CONVERGED),
        ({"beta_squared": 0.0}, Status.INDEFINITE_PRECONDITIONER),
        ({"beta_squared": -1.0}, Status.INDEFINITE_PRECONDITIONER),
        ({"r_norm": math.nan}, Status.NON_FINITE),
        ({"beta_squared": math.inf, "target": 9.0}, Status.NON_FINITE),
    ],
)
def test_ends_at_the_start(changes: dict[str, float], status: Status | None) -> None:
    assert column(**changes).ends_at_start() is status


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sum_that_is_not_finite_changes_nothing(place: int, value: float) -> None:
    one = column()
    sums = [1.0] * 5
    sums[place] = value
    trial = one.trial(StepSums(*sums))
    assert one.ends_before(trial) is Status.NON_FINITE
    assert trial.factors is one.factors


def test_residual_norm_of_terms_that_cancel() -> None:
    # s² r + t y = 0 up to rounding, which may leave a negative square.
    one = column()
    s_squared = 0.5  # of α = β = 1
    t = -0.5
    trial = one.trial(StepSums(1.0, 1.0, 1.0, (s_squared / -t) * (1 + 1e-15), 1.0))
    assert (trial.shrink, trial.along) == pytest.approx((s_squared, t))
    assert trial.r_norm == pytest.approx(math.sqrt(EPS / 2), rel=0.1)


def test_steps_of_a_diagonal_matrix() -> None:
    # A = diag(1, 3), b = (1, 1) / √2: α = 2, β = 1, then α = 2 and the end.
    one = column()
    first = one.trial(StepSums(2.0, 1.0))
    assert one.ends_before(first) is None
    one.step(first)
    assert one.r_norm == pytest.approx(1 / math.sqrt(5))
    assert one.ends_after(first) is None
    last = one.trial(StepSums(2.0, 0.0))
    one.step(last)
    assert one.ends_after(last) is Status.CONVERGED
    assert one.factors.solution_norm == pytest.approx(math.sqrt((1 + 1 / 9) / 2))


def test_negative_square_beyond_rounding() -> None:
    one = column()
    assert one.ends_before(one.trial(StepSums(1.0, -1e-10))) is Status.INDEFINITE_PRECONDITIONER
    assert one.ends_before(one.trial(StepSums(1.0, -1e-33))) is None


def test_curvature_of_the_scaled_matrix() -> None:
    one = column()
    one.rescale(8.0)
    trial = one.trial(StepSums(-4.0, 1.0))
    assert one.meets_flat(trial)
    assert one.rayleigh(trial) == -0.5
    assert not one.meets_flat(one.trial(StepSums(4.0, 1.0)))
