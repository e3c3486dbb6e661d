"""What keeps f from falling: rounding in f, rounding in x, or f itself."""

from __future__ import annotations

import math

import torch

from hvplib import HessianOperator
from hvplib.interrupt import Interrupt
from hvplib.optim import Ending
from hvplib.optim.doubts import Doubts, stalled
from hvplib.optim.evaluation import Limits, Objective, Point


def steep(offset: float) -> Point:
    """1e12 (x − 1/3)² beside its minimum: f is tiny, and the gradient as small as rounding lets x make it."""
    x = torch.tensor([1 / 3 + offset], dtype=torch.float64)
    operator = HessianOperator(lambda x: 1e12 * (x - 1 / 3).square().sum(), x)
    return Objective(operator, Limits(), Interrupt()).start


def test_rounding_in_x_is_not_taken_for_a_kink() -> None:
    point = steep(1e-16)
    assert 0 < point.value < 1e-19 and point.gradient_norm > 1e-5
    promise = point.gradient_norm**2 / 4e12
    assert stalled(promise, point) is Ending.STAGNATED
    doubts = Doubts(point)
    doubts.add(1.0, 1.0, 0.0)
    doubts.add(promise, 1e-16, 0.0)
    assert doubts.ending is Ending.STAGNATED


def test_a_promise_that_rounding_cannot_hide_is_a_kink() -> None:
    point = steep(1e-3)
    promise = point.gradient_norm**2 / 4e12
    assert stalled(promise, point) is Ending.NOT_SMOOTH
    doubts = Doubts(point)
    doubts.add(promise, 1e-3, 0.0)
    assert doubts.ending is Ending.STAGNATED  # long steps may break their promise
    doubts.add(promise / 100, 1e-5, 0.0)
    assert doubts.ending is Ending.NOT_SMOOTH


def test_a_wall_is_no_rounding() -> None:
    doubts = Doubts(steep(1e-16))
    doubts.add(1.0, 1.0, -math.inf)
    assert doubts.ending is Ending.STAGNATED
    doubts.add(1e-30, 1e-9, -math.inf)
    assert doubts.ending is Ending.NOT_SMOOTH
