"""Points of an objective: value, gradient and products from one evaluation, with what they cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hvplib.interrupt import Interrupt
from hvplib.operators.curvature import HessianOperator
from hvplib.optim.box import Box
from hvplib.optim.ending import Ended, Ending
from hvplib.space import Space

__all__ = ["Limits", "Objective", "Point"]


@dataclass(frozen=True)
class Limits:
    """What a minimisation may spend.

    Attributes:
        max_nfev: Points evaluated.
        max_hvp: Products.
        time_limit: Seconds.
    """

    max_nfev: float = math.inf
    max_hvp: float = math.inf
    time_limit: float = math.inf


class Point:
    """f and its derivatives at one point x.

    Attributes:
        x: (n,).
        value: f(x).
        gradient: ∇f(x) as a block (n, 1).
        stationarity: ∇f(x), within bounds x − P(x − ∇f(x)) (n, 1): zero at a stationary point.
        gradient_norm: max |stationarity_i|.
        eps: The unit of rounding of f.
        operator: ∇²f(x); its products through `hvp` are booked.
    """

    def __init__(self, objective: Objective, x: Tensor, operator: HessianOperator) -> None:
        self._objective = objective
        self.operator = operator
        self.x = x
        self.eps = objective.eps
        self.gradient = operator.flat_gradient.unsqueeze(1)
        box = objective.box
        self.stationarity = self.gradient if box is None else box.stationarity(x, self.gradient)
        # One transfer: both decide how to go on.
        numbers = torch.stack([operator.value.to(x), self.stationarity.abs().max()]).tolist()
        self.value: float = numbers[0]
        self.gradient_norm: float = numbers[1]

    @property
    def finite(self) -> bool:
        """Whether f and its gradient are finite."""
        return math.isfinite(self.value) and math.isfinite(self.gradient_norm)

    def hvp(self, V: Tensor) -> Tensor:
        """∇²f(x) V for a block (n, k): k products.

        Raises:
            Ended: They are more than are left, time is up, or Ctrl-C came.
        """
        self._objective.spend(V.shape[1])
        return self.operator._product(V)


class Objective:
    """f as an outer loop sees it: a maker of points that keeps the accounts.

    Args:
        operator: The Hessian at the starting point.
        limits: What may be spent.
        interrupt: Where Ctrl-C is noted.
        box: The bounds, which the start is within.

    Attributes:
        box: The same.
        space: Of the unknowns.
        start: The first point.
        eps: The unit of rounding of f, and of what it is computed from.
        num_points: Points evaluated.
        num_matvecs: Products made.
    """

    def __init__(
        self, operator: HessianOperator, limits: Limits, interrupt: Interrupt, box: Box | None = None
    ) -> None:
        assert operator.domain is not None
        self.box = box
        self.space: Space = operator.domain
        self._at: Callable[[Any], HessianOperator] = operator.at
        self._limits = limits
        self._interrupt = interrupt
        self._deadline = time.monotonic() + limits.time_limit
        self.eps = max(torch.finfo(dtype).eps for dtype in self.space.dtypes)
        self.num_points = 1
        self.num_matvecs = 0
        self.start = Point(self, self.space.flatten(operator.primals), operator)

    @property
    def matvecs_left(self) -> float:
        """Products that may still be made."""
        return self._limits.max_hvp - self.num_matvecs

    def at(self, x: Tensor) -> Point:
        """The point x (n,), or the one nearest to it that the unknowns' dtypes can hold.

        Raises:
            Ended: No more points may be evaluated, time is up, or Ctrl-C came.
        """
        self.check()
        if self.num_points >= self._limits.max_nfev:
            raise Ended(Ending.MAX_NFEV)
        self.num_points += 1
        primals = self.space.unflatten(x)
        return Point(self, self.space.flatten(primals), self._at(primals))

    def step(self, point: Point, s: Tensor) -> Tensor:
        """s (n, k), as much of it as the bounds allow."""
        return s if self.box is None else self.box.step(point.x, s)

    def room(self, point: Point, d: Tensor) -> float:
        """How far the bounds let x go along d (n, 1)."""
        return math.inf if self.box is None else self.box.room(point.x, d)

    def moved(self, point: Point, s: Tensor) -> Point:
        """The point x + s for s (n, 1), or the nearest to it within the bounds.

        Raises:
            Ended: As `at`.
        """
        return self.at(point.x + s[:, 0] if self.box is None else self.box.moved(point.x, s))

    def spend(self, count: int) -> None:
        """Book products before they are made."""
        self.check()
        if count > self.matvecs_left:
            raise Ended(Ending.MAX_HVP)
        self.num_matvecs += count

    def check(self) -> None:
        """Make sure that nobody asks to end."""
        if self._interrupt.came:
            raise Ended(Ending.INTERRUPTED)
        if time.monotonic() >= self._deadline:
            raise Ended(Ending.TIME_LIMIT)
