"""What is decided of one column, on the numbers of steps by hand; rounding is made visible by a large eps."""

from __future__ import annotations

import pytest

from hvplib.krylov.cg_column import Ball, Column, StepNumbers
from hvplib.results.status import Status

EPS = 1e-3


def column(*, tolerance: float = 1e-6, radius: float | None = None) -> Column:
    ball = None if radius is None else Ball(radius)
    return Column(0, scale=1.0, tolerance=tolerance, start=1.0, eps=EPS, ball=ball)


def after_one_step(residual: float) -> Column:
    """rz = pq = 1: the first step has length 1, and ‖A‖ is taken to be 2."""
    made = column()
    assert made.judge(StepNumbers(1.0, 1.0, residual**2)) == (None, True)
    return made


def second(made: Column, quotient: float, residual: float) -> tuple[Status | None, bool]:
    rz = made.residual**2
    pp = rz + rz**2  # β = rz
    return made.judge(StepNumbers(rz, quotient * pp, residual**2))


def test_smaller_residual_is_not_kept_where_rounding_hides_it() -> None:
    # The second step has length 0.25 / 0.005 / √0.3125 = 89: rounding hides 2 eps (1 + 89).
    made = after_one_step(0.5)
    assert second(made, 0.005, 0.4) == (None, False)
    assert made.kept == 0.5
    made = after_one_step(0.5)
    assert second(made, 0.005, 0.3) == (None, True)
    assert made.kept == pytest.approx(0.3)


def test_convergence_is_not_claimed_where_rounding_hides_a_tenth_of_the_start() -> None:
    assert second(after_one_step(0.5), 0.005, 1e-7) == (Status.STAGNATED, True)
    assert second(after_one_step(0.5), 0.01, 1e-7) == (Status.CONVERGED, True)


def test_what_has_converged_is_kept() -> None:
    # Two steps, in which rounding hides 0.048 and 0.037; the iterate before them has a residual of 0.05.
    made = after_one_step(0.05)
    assert second(made, 0.0021, 0.06) == (None, False)
    rz = 0.06**2
    pp = rz + (rz / 0.05**2) ** 2 * (0.05**2 + 0.05**4)
    assert made.judge(StepNumbers(rz, 0.0021 * pp, 1e-14)) == (Status.CONVERGED, True)
    assert made.kept == pytest.approx(1e-7)


def test_what_has_converged_stands_even_near_the_start() -> None:
    # A residual of 0.95 and 0.09 that is hidden: more than the first one, and yet within the tolerance.
    made = column(tolerance=0.96)
    assert made.judge(StepNumbers(1.0, 1.0, 0.99**2)) == (None, True)
    assert second(made, 0.016, 0.95) == (Status.CONVERGED, True)
    assert made.settle(Status.CONVERGED) and made.kept == pytest.approx(0.95)
    assert not made.settle(Status.STAGNATED) and made.kept == 1.0


def test_curvature_of_a_direction_follows_from_residuals_that_are_orthogonal() -> None:
    # pᵀp = ‖r‖² + β² ‖p‖² = 0.25 + 0.0625, and 2 eps of it is flat.
    for quotient, flat in ((0.0021, False), (0.0019, True)):
        made = after_one_step(0.5)
        status, keep = second(made, quotient, 0.45)
        assert (status is Status.NEGATIVE_CURVATURE) == flat == (made.flat is not None)
        assert not keep
    assert made.flat == pytest.approx(0.0019 * 0.3125)


def test_direction_whose_square_underflows_is_no_curvature() -> None:
    made = column()
    assert made.judge(StepNumbers(1e-30, 0.0, 1.0, pp=0.0)) == (Status.STAGNATED, False)


def test_residual_far_below_rounding_is_lost() -> None:
    made = column(tolerance=0.0)
    assert made.judge(StepNumbers(1.0, 1.0, (1.01 * EPS**1.5) ** 2))[0] is None
    made = column(tolerance=0.0)
    assert made.judge(StepNumbers(1.0, 1.0, (0.99 * EPS**1.5) ** 2))[0] is Status.STAGNATED


def test_small_curvature_that_a_later_one_shows() -> None:
    made = column()
    assert made.judge(StepNumbers(1.0, 1e-5, 0.81))[0] is None
    assert made.judge(StepNumbers(0.81, 10.0, 0.64))[0] is Status.STAGNATED


def test_ball_in_the_plane() -> None:
    # From x = (3, 0) along p = (0, 1) to the circle of radius 5, and beyond it.
    ball = Ball(5.0)
    ball.turn(0.0, 9.0)
    ball.move(1.0, 0.0)
    ball.turn(0.0, 1.0)
    assert ball.holds(3.99) and not ball.holds(4.0)
    assert ball.to_boundary() == pytest.approx(4.0)
    # Along p = (1, 1): xᵀp = xᵀr + β (xᵀp + α pᵀp) with β = 1/9.
    ball = Ball(5.0)
    ball.turn(0.0, 9.0)
    ball.move(1.0, 2.0)
    ball.turn(1 / 9, 2.0)
    tau = ball.to_boundary()
    assert (3 + tau) ** 2 + tau**2 == pytest.approx(25.0)


def test_no_room_to_the_boundary() -> None:
    ball = Ball(3.0)
    ball.turn(0.0, 9.0)
    ball.move(1.0, 0.0)
    ball.turn(0.0, 1.0)
    assert ball.to_boundary() == 0.0
