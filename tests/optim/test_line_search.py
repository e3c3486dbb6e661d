from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from hvplib.optim.ending import Ended, Ending
from hvplib.optim.line_search import Line, search
from tests.optim.points import objective, rosenbrock

F64 = torch.float64


def column(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=F64)[:, None]


def cubic(x: Tensor) -> Tensor:
    """Along x: least at 2, highest at −1/2; falls again below."""
    return (x**3 / 3 - 0.75 * x**2 - x).sum()


def test_a_line_by_its_definition() -> None:
    problem = objective(rosenbrock, -1.2, 1.0)
    d = column(0.3, 2.0)
    line = Line(problem, problem.start, d, -4.0)
    trial = line.at(0.25)
    x = problem.start.x + 0.25 * d[:, 0]
    assert trial.decrease == pytest.approx(float(rosenbrock(problem.start.x) - rosenbrock(x)), rel=1e-14)
    assert trial.slope == pytest.approx(float(torch.func.grad(rosenbrock)(x) @ d[:, 0]), rel=1e-13)
    slope = float(torch.func.grad(rosenbrock)(problem.start.x) @ d[:, 0])
    assert line.start.slope == pytest.approx(slope, rel=1e-14)
    assert line.steep(0.5) == pytest.approx(slope - 2.0, rel=1e-14)
    assert line.promised(0.5) == pytest.approx(-0.5 * slope + 0.5, rel=1e-14)
    assert problem.num_points == 2


def test_the_full_step_of_a_quadratic_is_one_evaluation() -> None:
    problem = objective(lambda x: (x**2).sum(), 3.0, -1.0)
    for wolfe in (None, 0.9):
        before = problem.num_points
        trial = search(Line(problem, problem.start, column(-3.0, 1.0)), 1.0, wolfe=wolfe)
        assert trial is not None and trial.t == 1.0
        assert problem.num_points == before + 1


@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 7.0, 300.0])
def test_strong_conditions_of_wolfe(first: float) -> None:
    problem = objective(rosenbrock, -1.2, 1.0)
    d = -problem.start.gradient
    trial = search(Line(problem, problem.start, d), first, wolfe=0.1)
    assert trial is not None
    slope = float((problem.start.gradient * d).sum())
    assert trial.decrease >= -1e-4 * trial.t * slope
    assert abs(trial.slope) <= 0.1 * abs(slope)
    f = lambda x: float(rosenbrock(torch.tensor(x)))  # noqa: E731
    g = lambda x: torch.func.grad(rosenbrock)(torch.tensor(x)).numpy()  # noqa: E731
    theirs = scipy.optimize.line_search(f, g, np.array([-1.2, 1.0]), d[:, 0].numpy(), c1=1e-4, c2=0.1)[0]
    assert theirs is not None  # there are such points, and both are near one and the same minimum
    assert trial.t == pytest.approx(theirs, rel=0.5)


def test_interpolation_finds_the_minimum_of_a_cubic_at_once() -> None:
    problem = objective(cubic, 0.0)
    trial = search(Line(problem, problem.start, column(1.0)), 5.0, wolfe=1e-9)
    assert trial is not None and trial.t == pytest.approx(2.0, rel=1e-12)
    assert problem.num_points == 3  # the start, 5 and 2


def test_going_on_finds_it_too() -> None:
    problem = objective(cubic, 0.0)
    trial = search(Line(problem, problem.start, column(1.0)), 0.5, wolfe=1e-9)
    assert trial is not None and trial.t == pytest.approx(2.0, rel=1e-12)
    assert problem.num_points == 3


def test_backing_off_alone_does_not_go_on() -> None:
    problem = objective(cubic, 0.0)
    trial = search(Line(problem, problem.start, column(1.0)), 0.01)
    assert trial is not None and trial.t == 0.01


def test_trials_keep_away_from_the_ends_of_the_bracket() -> None:
    """Of a wall the cubic says to go all of the way back."""
    problem = objective(lambda x: (-x + 1e9 * torch.relu(x - 0.02) ** 2).sum(), 0.0)
    trial = search(Line(problem, problem.start, column(1.0)), 1.0)
    assert trial is not None and trial.t == pytest.approx(0.01, rel=1e-9)  # twice by a tenth


@pytest.mark.parametrize("curvature", [-2.0, -1e-3])
def test_negative_curvature_without_slope(curvature: float) -> None:
    """½ θ x² + x⁴ / 4 from zero is least at √|θ|."""
    problem = objective(lambda x: (curvature * x**2 / 2 + x**4 / 4).sum(), 0.0)
    least = math.sqrt(-curvature)
    for first in (1e-3 * least, 50 * least):
        trial = search(Line(problem, problem.start, column(1.0), curvature), first, wolfe=0.9)
        assert trial is not None
        assert trial.decrease >= 1e-4 * trial.t**2 * -curvature / 2
        assert abs(trial.slope) <= 0.9 * trial.t * -curvature
        assert 0.3 * least < trial.t < math.sqrt(2) * least


def test_the_promise_of_curvature_has_to_be_kept() -> None:
    """The values fall, but ten thousand times less than θ promises: only a shorter step is good enough."""
    problem = objective(lambda x: torch.cos(x).sum(), 0.0)
    trial = search(Line(problem, problem.start, column(1.0), -1.0), 2 * math.pi - 1e-3, wolfe=None)
    assert trial is not None and trial.decrease >= 1e-4 * trial.t**2 / 2
    assert trial.t < 6


def test_without_end_it_stops_after_eleven_points() -> None:
    problem = objective(lambda x: -x.sum(), 0.0)
    trial = search(Line(problem, problem.start, column(1.0)), 1.0, wolfe=0.9)
    assert trial is not None and trial.t == pytest.approx(1e9)
    assert problem.num_points == 1 + 10


@pytest.mark.parametrize("wolfe", [None, 0.9])
def test_walls_of_nan_back_off(wolfe: float | None) -> None:
    problem = objective(lambda x: -torch.sqrt(1 - x).sum() + x.sum() - 9 * torch.log(x).sum(), 0.5)
    trial = search(Line(problem, problem.start, column(1.0)), 100.0, wolfe=wolfe)
    assert trial is not None and trial.point.finite and trial.decrease > 0
    assert 0.5 < float(trial.point.x) < 1


def test_nothing_lower_is_none() -> None:
    problem = objective(lambda x: x.abs().sum(), 1e-3)
    uphill = Line(problem, problem.start, column(1.0))
    assert search(uphill, 1.0) is None
    # Each trial halves at least, and what is below the rounding of x is left.
    assert problem.num_points <= 1 + math.log2(1e3) + 53


def test_steps_below_rounding_are_not_tried() -> None:
    problem = objective(lambda x: (x**2).sum(), 1.0, 1e-8)
    before = problem.num_points
    assert search(Line(problem, problem.start, column(-1.0, 0.0)), 1e-17) is None
    assert problem.num_points == before
    # What is nothing beside the first entry is much beside the second.
    assert search(Line(problem, problem.start, column(0.0, -1.0)), 1e-17) is not None
    assert search(Line(problem, problem.start, column(0.0, 0.0)), 1.0) is None


def test_decrease_that_rounding_hides_is_seen_by_the_slopes() -> None:
    """1e12 + x² near zero: all values are alike."""
    problem = objective(lambda x: 1e12 + (x**2).sum(), 1e-4)
    line = Line(problem, problem.start, column(-1.0))
    trial = search(line, 1e-4)
    assert trial is not None and trial.point.value == problem.start.value
    assert trial.decrease == pytest.approx(1e-8, rel=1e-9)
    assert search(line, 3e-4, wolfe=0.5).t == pytest.approx(1e-4, rel=1e-6)  # type: ignore[union-attr]


def test_minus_infinity_ends() -> None:
    problem = objective(lambda x: torch.log(x).sum(), 1.0)
    with pytest.raises(Ended) as ended:
        search(Line(problem, problem.start, column(-1.0)), 1.0)
    assert ended.value.ending is Ending.UNBOUNDED


def test_a_bracket_without_a_lower_point_is_halved_at_least() -> None:
    """x³ − 0.99 x is least at 0.574, where the cubic through both ends of [0, 1] is least too."""
    problem = objective(lambda x: (x**3 - 0.99 * x).sum(), 0.0)
    trial = search(Line(problem, problem.start, column(1.0)), 1.0)
    assert trial is not None and trial.t == 0.5
