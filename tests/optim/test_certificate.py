from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hvplib import HessianOperator
from hvplib.interrupt import Interrupt
from hvplib.optim.box import Box
from hvplib.optim.certificate import Curvature, least_curvature
from hvplib.optim.escape import curvature_persists, fall, probe
from hvplib.optim.evaluation import Limits, Objective

F64 = torch.float64


def objective(func: Callable[[Tensor], Tensor], *x: float) -> Objective:
    operator = HessianOperator(func, torch.tensor(x, dtype=F64))
    return Objective(operator, Limits(), Interrupt())


def quadratic(d: Tensor) -> Objective:
    operator = HessianOperator(lambda x: (d * x**2).sum() / 2, torch.ones_like(d))
    return Objective(operator, Limits(), Interrupt())


def normal(n: int, seed: int = 0) -> Callable[[int], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda k: torch.randn(k, n, generator=generator, dtype=F64).mT


def along(direction: Tensor, value: float) -> Curvature:
    return Curvature(value, value, direction, 1.0, 2e-16, 0.0, 0)


@pytest.mark.parametrize("least", [-3.0, -1e-9, 0.0, 1e-9, 2.0])
def test_small_matrices_are_computed_whole(least: float) -> None:
    d = torch.tensor([5.0, least, 7.0], dtype=F64)
    problem = quadratic(d)
    found = least_curvature(problem.start, normal(3), max_matvecs=10, probability=1e-3)
    assert (found.value, found.norm) == (least, 7.0)
    assert 0 < least - found.bound <= 1e-12
    assert (found.miss_probability, found.num_matvecs, problem.num_matvecs) == (0, 3, 3)
    assert (found.negative, found.positive) == (least < 0, least > 0)
    torch.testing.assert_close(found.direction.abs()[:, 0], torch.tensor([0.0, 1.0, 0.0], dtype=F64))


def test_what_is_hidden_by_rounding_is_neither() -> None:
    found = least_curvature(quadratic(torch.tensor([1.0, -1e-15], dtype=F64)).start, normal(2), max_matvecs=9,
                            probability=1e-3)  # fmt: skip
    assert not found.negative and not found.positive


@pytest.mark.parametrize("n", [2, 100])
def test_rounding_is_that_of_f_not_of_the_vectors(n: int) -> None:
    """An unknown of float32 among those of float64: the products are as coarse as its gradient is."""
    d = torch.full((n,), 1.0, dtype=F64)
    d[-1] = -1e-6

    def func(x: tuple[Tensor, Tensor]) -> Tensor:
        return (d[:1] * x[0].double() ** 2).sum() / 2 + (d[1:] * x[1] ** 2).sum() / 2

    operator = HessianOperator(lambda a, b: func((a, b)), (torch.zeros(1), torch.zeros(n - 1, dtype=F64)))
    point = Objective(operator, Limits(), Interrupt()).start
    assert point.x.dtype is F64 and point.eps == torch.finfo(torch.float32).eps
    found = least_curvature(point, normal(n), max_matvecs=n, probability=1e-3)
    assert found.value == pytest.approx(-1e-6, rel=1e-3) and not found.negative and not found.positive
    assert found.bound <= -1e-6


def test_several_flat_directions_are_mixed() -> None:
    four = quadratic(torch.tensor([0.0, 2, 0, 0], dtype=F64)).start
    found = least_curvature(four, normal(4), max_matvecs=9, probability=1e-3)
    assert found.flat is not None and found.flat.shape == (4, 2)
    torch.testing.assert_close(found.flat.norm(dim=0), torch.ones(2, dtype=F64))
    assert float(found.flat[1].abs().max()) <= 1e-14 and float(found.flat[[0, 2, 3]].abs().min()) > 1e-3
    for least in (0.0, 1.0):
        one = quadratic(torch.tensor([2.0, least, 3], dtype=F64)).start
        assert least_curvature(one, normal(3), max_matvecs=9, probability=1e-3).flat is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("least", [-2.0, 1.0, 25.0])
def test_bounds_hold_for_large_matrices(seed: int, least: float) -> None:
    d = torch.linspace(least, 30, 400, dtype=F64)
    problem = quadratic(d)
    found = least_curvature(problem.start, normal(400, seed), max_matvecs=60, probability=1e-3)
    assert found.bound <= least <= found.value
    assert found.negative == (least < 0)
    assert not (found.positive and least < 0)
    assert found.num_matvecs == problem.num_matvecs <= 60
    residual = d[:, None] * found.direction - found.value * found.direction
    assert float(residual.norm()) <= 0.2 * 30 and float(found.direction.norm()) == pytest.approx(1)


def test_an_early_end_saves_products() -> None:
    d = torch.linspace(29, 30, 400, dtype=F64)
    found = least_curvature(quadratic(d).start, normal(400), max_matvecs=100, probability=1e-3)
    assert found.positive and found.num_matvecs <= 10


def test_few_products_say_little_and_say_so() -> None:
    d = torch.logspace(-6, 6, 400, dtype=F64)
    found = least_curvature(quadratic(d).start, normal(400), max_matvecs=20, probability=1e-3)
    assert not found.negative and not found.positive
    assert found.bound < 0 < float(d[0]) <= found.value


def test_products_that_are_not_finite_say_nothing() -> None:
    operator = HessianOperator(lambda x: x.abs().pow(1.5).sum(), torch.zeros(2, dtype=F64), verify=False)
    point = Objective(operator, Limits(), Interrupt()).start
    found = least_curvature(point, normal(2), max_matvecs=9, probability=1e-3)
    assert not found.negative and not found.positive


# ------------------------------------------------- escapes


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_fall_along_negative_curvature(scale: float) -> None:
    problem = objective(lambda x: x[0] ** 2 + scale**4 * ((x[1] / scale) ** 4 - (x[1] / scale) ** 2), 0, 0)
    d = torch.tensor([[0.0], [1.0]], dtype=F64)
    value = -2 * scale**2
    lower = fall(problem, problem.start, along(d, value))
    assert lower is not None
    point, length = lower
    assert point.value <= 0.1 * value * length**2 / 2 < 0
    assert float(point.x.norm()) == pytest.approx(length)


def test_fall_goes_downhill_first() -> None:
    problem = objective(lambda x: -(x[0] ** 2) - 1e-3 * x[0] + x[0] ** 4, 0.0)
    lower = fall(problem, problem.start, along(torch.tensor([[-1.0]], dtype=F64), -2.0))
    assert lower is not None and float(lower[0].x) > 0


def test_fall_ends_at_the_bounds() -> None:
    """Behind them what is left of the direction has another curvature."""
    zero = torch.zeros(2, dtype=F64)
    box = Box(torch.tensor([-1.0, 0.0], dtype=F64), torch.tensor([1.0, 0.01], dtype=F64))
    problem = Objective(HessianOperator(lambda x: -x[0] * x[1], zero), Limits(), Interrupt(), box)
    lower = fall(problem, problem.start, along(torch.full((2, 1), 0.5**0.5, dtype=F64), -1.0))
    assert lower is not None and problem.num_points == 2
    torch.testing.assert_close(lower[0].x, torch.full((2,), 0.01, dtype=F64))
    assert lower[1] == pytest.approx(0.01 * 2**0.5)


def test_no_fall_where_there_is_none() -> None:
    problem = objective(lambda x: x.square().sum(), 0.0)
    assert fall(problem, problem.start, along(torch.ones(1, 1, dtype=F64), -1.0)) is None
    assert problem.num_points == 1 + 2 * 16


@pytest.mark.parametrize("start", [0.0, 5e-4])
def test_probe_finds_third_derivatives(start: float) -> None:
    problem = objective(lambda x: (x**3).sum(), start)
    lower = probe(problem, problem.start, along(torch.ones(1, 1, dtype=F64), 6 * start))
    assert lower is not None and lower[0].value < 0


@pytest.mark.parametrize("start", [0.0, 5e-3])
def test_probe_is_not_misled_by_what_is_left_of_the_gradient(start: float) -> None:
    problem = objective(lambda x: (x**4).sum(), start)
    assert probe(problem, problem.start, along(torch.ones(1, 1, dtype=F64), 12 * start**2)) is None
    assert problem.num_points == 7


def test_probe_is_not_misled_by_curvature_that_is_known() -> None:
    problem = objective(lambda x: -1e-3 * (x**2).sum(), 0.0)
    assert probe(problem, problem.start, along(torch.ones(1, 1, dtype=F64), -2e-3)) is None


def test_probe_survives_infinities() -> None:
    problem = objective(lambda x: 0 * torch.log(1e-8 - x**2).sum(), 0.0)
    assert probe(problem, problem.start, along(torch.ones(1, 1, dtype=F64), 0.0)) is None


@pytest.mark.parametrize(
    ("func", "start", "persists"),
    [
        (lambda x: (x**2 + x**4).sum(), 1e-7, True),
        (lambda x: (x**4).sum(), 5e-3, False),
        (lambda x: (x**3).sum(), 5e-4, False),
        (lambda x: (x**4).sum() + 5e-7 * x.sum(), 2e-3, False),
        (lambda x: (x**2).sum(), 0.0, True),
    ],
)
def test_curvature_that_fades(func: Callable[[Tensor], Tensor], start: float, persists: bool) -> None:
    problem = objective(func, start)
    curvature = least_curvature(problem.start, normal(1), max_matvecs=9, probability=1e-3)
    assert curvature_persists(problem, problem.start, curvature) is persists


def test_curvature_with_nan_beside_it_does_not_persist() -> None:
    problem = objective(lambda x: (x**2 + torch.sqrt(x) * 0).sum(), 1e-3)
    curvature = along(torch.ones(1, 1, dtype=F64), 2.0)
    assert math.isfinite(problem.start.value)
    assert not curvature_persists(problem, problem.start, curvature)
