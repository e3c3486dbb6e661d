from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hvplib import HessianOperator
from hvplib.interrupt import Interrupt
from hvplib.krylov.quadratic_model import QuadraticSpace
from hvplib.optim.cubic import CubicRegularisation
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Limits, Objective, Point
from hvplib.optim.methods import Method

F64 = torch.float64


class Model:
    """A Krylov space as accurate as can be.

    Attributes:
        asked: Names and arguments of what was asked for.
    """

    def __init__(self, point: Point, asked: list[tuple[str, float]]) -> None:
        n = len(point.x)
        rng = torch.Generator().manual_seed(0)
        self._space = QuadraticSpace(
            point.hvp,
            point.gradient,
            krylov_dim=n,
            random=lambda j: torch.randn(n, j, generator=rng, dtype=F64),
        )
        self.asked = asked

    def leave(self) -> None:
        self.asked.append(("leave", 0.0))

    def ball(self, radius: float):
        self.asked.append(("ball", radius))
        return self._space.ball(radius, rtol=1e-12)

    def cubic(self, sigma: float):
        self.asked.append(("cubic", sigma))
        return self._space.cubic(sigma, rtol=1e-12)


def objective(func: Callable[[Tensor], Tensor], *x: float) -> Objective:
    operator = HessianOperator(func, torch.tensor(x, dtype=F64), verify=False)
    return Objective(operator, Limits(), Interrupt())


def regularisation(problem: Objective, length: float = 1.0) -> tuple[CubicRegularisation, list]:
    asked: list[tuple[str, float]] = []
    return (
        CubicRegularisation(
            problem, Method(), lambda point, rtol: Model(point, asked), initial_length=length
        ),
        asked,
    )


def to_end(func: Callable[[Tensor], Tensor], *x: float, gtol: float = 1e-9, limit: int = 200) -> list[Point]:
    problem = objective(func, *x)
    method, _ = regularisation(problem)
    points = [problem.start]
    while points[-1].gradient_norm > gtol and len(points) < limit:
        points.append(method.advance(points[-1]))
    return points


def rosenbrock(x: Tensor) -> Tensor:
    return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()


@pytest.mark.parametrize("n", [2, 10])
def test_rosenbrock(n: int) -> None:
    points = to_end(rosenbrock, *([-1.2, 1.0] if n == 2 else [0.0] * n))
    torch.testing.assert_close(points[-1].x, torch.ones(n, dtype=F64), rtol=0, atol=1e-7)
    assert len(points) < 100
    values = [point.value for point in points]
    assert all(after < before for before, after in pairwise(values))


def test_the_end_is_quadratic() -> None:
    """The cubic term does not slow Newton's method down: ‖∇f‖ squares from step to step."""
    points = to_end(lambda x: torch.cosh(x - 1).sum() + (x**2).sum() / 2, 2.0, -1.0, gtol=1e-14)
    norms = [point.gradient_norm for point in points if point.gradient_norm > 1e-8]
    assert norms[-1] < 1e-3
    assert points[-1].gradient_norm <= 10 * norms[-1] ** 2


@pytest.mark.parametrize("start", [(0.0, 1e-3), (0.7, 0.0), (1e-8, -1e-8)])
def test_curvature_that_is_negative_is_used(start: tuple[float, float]) -> None:
    """A saddle at zero, minima at (0, ±1); on the stable manifold y = 0 the gradient does not show it."""
    points = to_end(lambda x: x[0] ** 2 - x[1] ** 2 / 2 + x[1] ** 4 / 4, *start)
    torch.testing.assert_close(points[-1].x.abs(), torch.tensor([0.0, 1.0], dtype=F64), rtol=0, atol=1e-8)


def test_first_step_has_the_initial_length() -> None:
    problem = objective(lambda x: 1000 * x.sum(), 0.0, 0.0)
    method, _ = regularisation(problem, 3.0)
    point = method.advance(problem.start)
    assert float(point.x.norm()) == pytest.approx(3.0)


def test_a_newton_step_shorter_than_that_is_nearly_taken() -> None:
    problem = objective(lambda x: ((x - 0.5) ** 2).sum(), 0.0, 0.0)
    method, _ = regularisation(problem, 3.0)
    torch.testing.assert_close(
        method.advance(problem.start).x, torch.full((2,), 0.5, dtype=F64), rtol=0.01, atol=0
    )


@pytest.mark.parametrize("third", [0.1, 7.0, 500.0])
def test_sigma_is_what_the_function_shows(third: float) -> None:
    """f = x² / 2 + x + third/3 |x|³ has σ = third; started above it, and then it stays there."""
    problem = objective(lambda x: (x + x**2 / 2 + third / 3 * x.abs() ** 3).sum(), 0.0)
    method, _ = regularisation(problem)
    method.sigma = 5 * third
    method.advance(problem.start)
    assert method.sigma == pytest.approx(third)
    point = method.advance(problem.start)
    assert method.sigma == pytest.approx(third)
    assert float(point.gradient.abs().max()) < 1e-12  # the model is f


def test_sigma_falls_by_a_tenth_at_most() -> None:
    problem = objective(lambda x: ((x - 1) ** 2).sum(), 0.0)
    method, _ = regularisation(problem)
    method.sigma = 1.0
    method.advance(problem.start)
    assert method.sigma == pytest.approx(0.1)


def test_rejected_steps_shrink_and_cost_no_products() -> None:
    problem = objective(lambda x: (1e4 * x**4 - x).sum(), 0.0, 0.1)
    method, asked = regularisation(problem)
    method.sigma = 1e-12
    lengths = []
    matvecs = problem.num_matvecs
    start = problem.start
    moved = problem.moved

    def noted(point: Point, s: Tensor) -> Point:
        lengths.append(float(s.norm()))
        return moved(point, s)

    problem.moved = noted  # type: ignore[method-assign]
    point = method.advance(start)
    assert point.value < start.value
    assert problem.num_matvecs <= matvecs + 2  # n = 2
    assert len(lengths) > 4
    for before, after in pairwise(lengths):
        assert before / 17 < after < before / 1.99
    assert ("cubic", 1e-12) in asked


def test_walls_are_backed_off_from() -> None:
    """f is not finite left of −1; a quarter of the way is tried after each such trial."""
    problem = objective(lambda x: (x**2 - torch.log(1 + x)).sum() + 3 * x.sum(), 3.0)
    method, _ = regularisation(problem, 1e3)
    point = method.advance(problem.start)
    assert problem.num_points == 3
    # Newton's step from 3 is −4.24 long.
    assert float(3 - point.x) == pytest.approx(8.75 / 2.0625 / 4, rel=0.01)


def test_nan_regions_are_survived() -> None:
    points = to_end(lambda x: (x - x.log()).sum() + (x[0] - x[1]) ** 2, 5.0, 0.01)
    torch.testing.assert_close(points[-1].x, torch.ones(2, dtype=F64), rtol=0, atol=1e-8)


def test_where_no_step_lowers_f() -> None:
    problem = objective(lambda x: x.abs().sum() + 9 * (x < 1).to(x.dtype).sum(), 1.0)
    with pytest.raises(Ended) as caught:
        regularisation(problem)[0].advance(problem.start)
    assert caught.value.ending is Ending.NOT_SMOOTH
    assert problem.num_points < 70


def test_a_point_without_gradient_is_left_to_others() -> None:
    problem = objective(lambda x: (x**2).sum(), 0.0)
    with pytest.raises(Ended) as caught:
        regularisation(problem)[0].advance(problem.start)
    assert caught.value.ending is Ending.STAGNATED


def test_restart_begins_anew_with_a_length() -> None:
    problem = objective(lambda x: x.sum(), 0.0)
    method, asked = regularisation(problem)
    point = method.advance(problem.start)
    assert asked[0] == ("ball", 1.0)
    for length, expected in ((0.5, 1.0), (8.0, 8.0)):
        method.restart(length)
        assert method.sigma is None
        asked.clear()
        point = method.advance(point)
        assert asked[0] == ("ball", expected)


@pytest.mark.parametrize("scale", [1e-120, 1e-9, 1e9, 1e120])
def test_the_scale_of_f_does_not_matter(scale: float) -> None:
    def path(scale: float) -> list[Point]:
        return to_end(lambda x: scale * rosenbrock(x), -1.2, 1.0, gtol=1e-6 * scale)

    plain, scaled = path(1.0), path(scale)
    assert math.isclose(len(scaled), len(plain), abs_tol=2)
    torch.testing.assert_close(scaled[8].x, plain[8].x, rtol=1e-6, atol=0)
