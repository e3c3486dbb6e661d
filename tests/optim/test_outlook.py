from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hvplib import HessianOperator
from hvplib.interrupt import Interrupt
from hvplib.optim.evaluation import Limits, Objective
from hvplib.optim.outlook import Outlook

F64 = torch.float64


def looked(func: Callable[[Tensor], Tensor], step: float) -> tuple[float | None, int]:
    """Where a look after twenty steps from 0 ends, and the points that it took."""
    operator = HessianOperator(func, torch.zeros(1, dtype=F64), verify=False)
    objective = Objective(operator, Limits(), Interrupt())
    outlook = Outlook(objective.start)
    far = None
    for i in range(1, 21):
        before = objective.num_points
        point = objective.at(torch.tensor([i * step], dtype=F64))
        far = outlook.ahead(objective, point)
        assert i == 20 or (far is None and objective.num_points == before + 1)
    return None if far is None else float(far.x), objective.num_points - before - 1


def test_falls_without_end_are_followed() -> None:
    x, points = looked(lambda x: (x + torch.sin(x)).sum(), -1.0)
    assert x is not None and x < -1e20 and points < 25


def test_falls_that_end_are_followed_as_far_as_they_go() -> None:
    x, points = looked(lambda x: torch.where(x > -5000, x, 0.1 * x - 4500).sum(), -1.0)
    assert x == pytest.approx(-20 - 20 * 100) and points == 3


@pytest.mark.parametrize(
    ("func", "step", "points"),
    [
        (lambda x: (x**2).sum(), 1.0, 0),  # it rises
        (lambda x: ((x + 21) ** 2).sum(), -1.0, 0),  # the gradient falls, too
        (lambda x: (x + (x / 20) ** 2).sum(), -1.0, 1),
        (lambda x: torch.where(x > -25, x, x / 0).sum(), -1.0, 1),
    ],
)
def test_where_there_is_nothing_to_see(func: Callable[[Tensor], Tensor], step: float, points: int) -> None:
    assert looked(func, step) == (None, points)
