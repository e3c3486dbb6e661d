"""The loop that quantities of f(A) and a few vectors share: steps, and a look at T now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hvplib.interrupt import Interrupt
from hvplib.krylov.lanczos_columns import LanczosColumns
from hvplib.results.status import Progress, Status

__all__ = ["Assessment", "Limits", "iterate"]

Callback = Callable[[Progress], object]

# A look at T costs up to m³: the next one comes after a sixth of the steps so far, after a quarter of many.
_OFTEN, _SELDOM, _MANY = 6, 4, 200


@dataclass(frozen=True)
class Assessment:
    """What is known of a column's answer after some steps.

    Attributes:
        error: Of the truncation after so many steps.
        rounding: Of what rounding may have done.
        tolerance: What both together may be.
    """

    error: float
    rounding: float
    tolerance: float

    @property
    def status(self) -> Status | None:
        """How the column ends with that; None if more steps may help."""
        if self.error + self.rounding <= self.tolerance:
            return Status.ESTIMATED
        return Status.STAGNATED if self.error < self.rounding / 2 else None


@dataclass(frozen=True)
class Limits:
    """What ends an iteration from outside.

    Attributes:
        max_iter: Steps.
        callback: Is told a `Progress` after each look; a truthy answer ends it.
        deadline: On the clock of `time.monotonic`.
        interrupt: Takes note of Ctrl-C.
    """

    max_iter: int
    callback: Callback | None
    deadline: float
    interrupt: Interrupt

    def status(self, step: int) -> Status | None:
        """Whether to end after so many steps."""
        if self.interrupt.came:
            return Status.INTERRUPTED
        if time.monotonic() >= self.deadline:
            return Status.TIME_LIMIT
        return Status.MAX_ITER if step >= self.max_iter else None


def iterate(
    lanczos: LanczosColumns, assess: Callable[[int], Assessment], limits: Limits, *, first: int = 1
) -> tuple[list[Status], int]:
    """Make steps until each column has ended.

    Args:
        lanczos: The columns.
        assess: What is known of column j now; may raise ValueError, which ends all.
        limits: What ends it from outside.
        first: The step of the first look.

    Returns:
        A status for each column, and the number of steps.
    """
    statuses: list[Status | None] = [
        None if column.finite else Status.NON_FINITE for column in lanczos.columns
    ]
    for j, column in enumerate(lanczos.columns):
        if column.finite and column.exhausted:  # zero
            statuses[j] = Status.ESTIMATED
    errors = torch.full((len(statuses),), math.inf, dtype=torch.float64)
    step, due = 0, first
    while lanczos.open:
        before = list(lanczos.open)
        lanczos.step()
        step += 1
        outside = limits.status(step)
        looked = step >= due or outside is not None
        for j in before:
            column = lanczos.columns[j]
            if not column.finite:
                statuses[j], errors[j] = Status.NON_FINITE, math.nan
            elif column.exhausted or looked:
                found = assess(j)
                errors[j] = found.error + found.rounding
                statuses[j] = found.status or (Status.STAGNATED if column.exhausted else outside)
        if looked:
            due = step + max(1, step // (_OFTEN if step <= _MANY else _SELDOM))
            if limits.callback is not None and limits.callback(
                Progress(step, lanczos.num_matvecs, errors.clone())
            ):
                statuses = [status or Status.STOPPED for status in statuses]
        lanczos.close([j for j in lanczos.open if statuses[j] is not None])
    return [status or Status.MAX_ITER for status in statuses], step
