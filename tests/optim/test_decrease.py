from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hvplib import HessianOperator
from hvplib.interrupt import Interrupt
from hvplib.optim import Ending
from hvplib.optim.decrease import decrease, noise, unbounded
from hvplib.optim.ending import Ended
from hvplib.optim.evaluation import Limits, Objective, Point

F64 = torch.float64


def points(func: Callable[[Tensor], Tensor], x: float, y: float) -> tuple[Point, Point, Tensor]:
    """The points x and y, and the step between them."""
    operator = HessianOperator(func, torch.tensor([x], dtype=F64), verify=False)
    objective = Objective(operator, Limits(), Interrupt())
    return objective.start, objective.at(torch.tensor([y], dtype=F64)), torch.tensor([[y - x]], dtype=F64)


def test_by_values_where_they_tell() -> None:
    assert decrease(*points(lambda x: (x**3).sum(), 2.0, 1.0)) == 7.0
    assert decrease(*points(lambda x: (x**3).sum(), 1.0, 2.0)) == -7.0


@pytest.mark.parametrize("step", [1e-8, 1e-9, 1e-11])
def test_by_gradients_where_rounding_hides_it(step: float) -> None:
    point, trial, s = points(lambda x: (x**2 + x**3).sum() + 1e8, 1.0, 1.0 - step)
    assert abs(point.value - trial.value) <= noise(point, trial)
    exact = 5 * step - 4 * step**2 + step**3
    assert decrease(point, trial, s) == pytest.approx(exact, rel=1e-4 * step**2 + 1e-6)


def test_trial_points_that_are_not_finite_are_never_lower() -> None:
    for beyond in (lambda x: torch.log(x).sum(), lambda x: -torch.log(x).sum()):
        point, trial, s = points(beyond, 1.0, -1.0)
        assert decrease(point, trial, s) == -math.inf
    point, trial, s = points(lambda x: torch.sqrt(x).sum(), 1.0, 0.0)  # its value is finite, its slope is not
    assert decrease(point, trial, s) == -math.inf


def test_a_pole_has_no_minimum() -> None:
    with pytest.raises(Ended) as caught:
        decrease(*points(lambda x: torch.log(x).sum(), 1.0, 0.0))
    assert caught.value.ending is Ending.UNBOUNDED


def test_unbounded() -> None:
    for start, depth, said in ((0.0, 0.9e20, False), (0.0, 1.1e20, True), (-1e3, 1.1e20, False)):
        point, trial, _ = points(lambda x: x.sum(), start, -depth)
        assert unbounded(point, trial) is said
