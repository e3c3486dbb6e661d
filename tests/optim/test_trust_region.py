from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hvplib import HessianOperator
from hvplib.interrupt import Interrupt
from hvplib.optim import Ending, TrustNCG
from hvplib.optim.doubts import Doubts
from hvplib.optim.ending import Ended
from hvplib.optim.evaluation import Limits, Objective, Point
from hvplib.optim.exact import Exact
from hvplib.optim.forcing import Forcing
from hvplib.optim.steihaug import Steihaug
from hvplib.optim.trust_region import TrustRegion

F64 = torch.float64


def objective(func: Callable[[Tensor], Tensor], *x: float) -> Objective:
    operator = HessianOperator(func, torch.tensor(x, dtype=F64), verify=False)
    return Objective(operator, Limits(), Interrupt())


def region(problem: Objective, radius: float = 1.0, max_radius: float = math.inf) -> TrustRegion:
    settings = TrustNCG(initial_radius=radius, max_radius=max_radius)
    return TrustRegion(problem, settings, lambda point, rtol: Exact(point))


def test_step_of_a_quadratic_is_exact_and_the_ball_stays() -> None:
    problem = objective(lambda x: ((x - 0.5) ** 2).sum(), 0.0, 0.0)
    method = region(problem, 9.0)
    torch.testing.assert_close(method.advance(problem.start).x, torch.full((2,), 0.5, dtype=F64))
    assert method.radius == 9.0 and problem.num_points == 2


def test_ball_grows_at_its_boundary_only_and_up_to_a_limit() -> None:
    problem = objective(lambda x: x.sum(), 0.0)
    method = region(problem, 1.0, max_radius=5.0)
    point = method.advance(problem.start)
    assert float(point.x) == -1 and method.radius == 3
    method.advance(point)
    assert method.radius == 5


def test_bad_step_is_not_taken_and_the_model_is_used_again() -> None:
    problem = objective(lambda x: (torch.cosh(20 * x) - 1).sum() + (x - 1).square().sum(), 0.0)
    method = region(problem, 100.0)
    start = problem.start
    matvecs = problem.num_matvecs
    point = method.advance(start)
    assert point.value < start.value
    assert problem.num_matvecs == matvecs + 1
    # As a cubic through what was seen at the first point tells.
    assert method.radius <= 100.0


def test_walls_are_backed_off_from() -> None:
    problem = objective(lambda x: (x**2 - torch.log(1 + x)).sum() + 3 * x.sum(), 3.0)
    method = region(problem, 100.0)
    method.advance(problem.start)
    # Newton's step from 3, 3 - 8.75 / 2.0625 = -1.24, is beyond the wall at -1; a quarter of it is not.
    assert problem.num_points == 3


def test_where_no_step_lowers_f() -> None:
    problem = objective(lambda x: x.abs().sum() + 9 * (x < 1).to(x.dtype).sum(), 1.0)
    with pytest.raises(Ended) as caught:
        region(problem).advance(problem.start)
    assert caught.value.ending is Ending.NOT_SMOOTH
    assert problem.num_points < 50


@pytest.mark.parametrize(
    ("steps", "ending"),
    [
        ([], Ending.STAGNATED),
        ([(1.0, 1.0), (0.5, 0.5)], Ending.STAGNATED),  # as any function that is strongly curved
        ([(1.0, 1.0), (0.01, 0.01)], Ending.NOT_SMOOTH),
        ([(1e-12, 1.0), (1e-14, 0.01)], Ending.STAGNATED),
    ],
)
def test_rounding_is_told_from_kinks(steps: list[tuple[float, float]], ending: Ending) -> None:
    doubts = Doubts(objective(lambda x: x.sum(), 1e3).start)
    for predicted, length in steps:
        doubts.add(predicted, length, 0.0)
    assert doubts.ending is ending


def test_restart_never_shrinks_the_ball() -> None:
    method = region(objective(lambda x: x.sum(), 0.0), 2.0, max_radius=8.0)
    for length, radius in ((1.0, 2.0), (4.0, 4.0), (100.0, 8.0)):
        method.restart(length)
        assert method.radius == radius


# ---------------------------------- conjugate gradients in a ball


def test_steihaug_inside_is_newtons_step() -> None:
    d = torch.tensor([1.0, 4.0, 9.0], dtype=F64)
    problem = objective(lambda x: (d * x**2).sum() / 2 - x.sum(), 0.0, 0.0, 0.0)
    step = Steihaug(problem.start, 1e-10, max_iter=9, precondition=None).ball(5.0)
    torch.testing.assert_close(step.s[:, 0], 1 / d)
    assert step.predicted == pytest.approx(float((1 / d).sum()) / 2)
    assert step.norm == pytest.approx(float((1 / d).norm())) and not step.on_boundary


def test_steihaug_ends_on_the_boundary() -> None:
    d = torch.tensor([1.0, -4.0], dtype=F64)
    problem = objective(lambda x: (d * x**2).sum() / 2 - x.sum(), 0.0, 0.0)
    step = Steihaug(problem.start, 1e-10, max_iter=9, precondition=None).ball(2.0)
    s = step.s[:, 0]
    assert step.on_boundary and step.norm == pytest.approx(2.0) == pytest.approx(float(s.norm()))
    assert step.predicted == pytest.approx(float(s.sum() - (d * s**2).sum() / 2))


def test_steihaug_without_one_finite_product_ends() -> None:
    problem = objective(lambda x: x.abs().pow(1.5).sum() + x.sum(), 0.0)
    with pytest.raises(Ended) as caught:
        Steihaug(problem.start, 0.1, max_iter=9, precondition=None).ball(1.0)
    assert caught.value.ending is Ending.NON_FINITE


# ----------------------------------------- forcing terms


def test_forcing_terms_follow_the_gradient() -> None:
    problem = objective(lambda x: (x**2).sum() / 2, 8.0)
    forcing = Forcing()
    x = torch.tensor([[8.0], [4.0], [0.4], [0.4e-3], [4.0]], dtype=F64)
    at = [Point(problem, row, problem.start.operator.at(row)) for row in x]
    # 0.9 (4/8)^2 = 0.225 is more than the largest, 0.9 (0.001)^2 less than the least.
    expected = [0.1, 0.1, 0.9e-2, 1e-3, 0.1]
    assert [forcing.tolerance(point) for point in at] == pytest.approx(expected)


def test_forcing_terms_at_a_gradient_of_zero() -> None:
    problem = objective(lambda x: (x**2).sum() / 2, 0.0)
    forcing = Forcing(0.3)
    assert [forcing.tolerance(problem.start) for _ in range(2)] == [0.3, 0.3]
