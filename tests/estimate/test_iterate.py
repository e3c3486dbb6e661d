"""The loop over columns: when it looks, and how each column ends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hvplib.estimate.iterate import Assessment, Limits, iterate
from hvplib.interrupt import Interrupt
from hvplib.krylov.lanczos_columns import LanczosColumns
from hvplib.results.status import Progress, Status
from tests.krylov.systems import normal

F64 = torch.float64
SPECTRUM = torch.linspace(1, 2, 50, dtype=F64)


def columns(B: Tensor, keep: int = 50) -> LanczosColumns:
    return LanczosColumns(lambda X: SPECTRUM.unsqueeze(1) * X, B, keep=keep, size=50)


def limits(max_iter: int = 50, deadline: float = math.inf, callback: object = None) -> Limits:
    return Limits(max_iter, callback, deadline, Interrupt())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "rounding", "tolerance", "status"),
    [
        (0.5, 0.5, 1.0, Status.ESTIMATED),
        (0.5, 0.6, 1.0, None),
        (0.1, 0.3, 0.2, Status.STAGNATED),
        (0.2, 0.3, 0.2, None),
        (math.nan, 0.1, 1.0, None),
    ],
)
def test_an_assessment(error: float, rounding: float, tolerance: float, status: Status | None) -> None:
    assert Assessment(error, rounding, tolerance).status is status


def test_looks_become_rarer_and_each_column_ends_by_itself() -> None:
    lanczos, looks = columns(normal(50, 2, seed=1)), {0: [], 1: []}  # type: ignore[var-annotated]

    def assess(j: int) -> Assessment:
        looks[j].append(lanczos.columns[j].steps)
        return Assessment(0.0 if len(looks[j]) > 4 * (1 + j) else 1.0, 0.0, 0.5)

    statuses, steps = iterate(lanczos, assess, limits())
    assert statuses == [Status.ESTIMATED, Status.ESTIMATED] and steps == looks[1][-1]
    assert looks[0] == [1, 2, 3, 4, 5] and looks[1] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert lanczos.num_matvecs == 5 + 9


def test_after_many_steps_a_sixth_is_made_between_looks() -> None:
    lanczos, looks = columns(normal(50, 1, seed=2)), []

    def assess(j: int) -> Assessment:
        looks.append(lanczos.columns[j].steps)
        return Assessment(1.0, 0.0, 0.5)

    statuses, steps = iterate(lanczos, assess, limits(30))
    assert statuses == [Status.MAX_ITER] and steps == 30
    assert looks[-4:] == [21, 24, 28, 30] and looks[:12] == list(range(1, 13))


def test_the_first_look_may_wait() -> None:
    lanczos, looks = columns(normal(50, 1, seed=2)), []

    def assess(j: int) -> Assessment:
        looks.append(lanczos.columns[j].steps)
        return Assessment(0.0 if len(looks) == 3 else 1.0, 0.0, 0.5)

    statuses, steps = iterate(lanczos, assess, limits(), first=12)
    assert statuses == [Status.ESTIMATED] and steps == 16 and looks == [12, 14, 16]


def test_zero_exhausted_and_not_finite_columns() -> None:
    B = torch.stack(
        [torch.zeros(50, dtype=F64), torch.eye(50, dtype=F64)[3], torch.full((50,), math.nan).double()], 1
    )
    lanczos = columns(B)
    statuses, steps = iterate(lanczos, lambda j: Assessment(1.0, 0.0, 0.5), limits())
    # An exhausted column that is not good enough cannot become better.
    assert statuses == [Status.ESTIMATED, Status.STAGNATED, Status.NON_FINITE] and steps == 1


def test_ended_from_outside() -> None:
    def assess(j: int) -> Assessment:
        return Assessment(1.0, 0.0, 0.5)

    late, steps = iterate(columns(normal(50, 1)), assess, limits(deadline=-math.inf))
    assert late == [Status.TIME_LIMIT] and steps == 1
    told: list[Progress] = []

    def callback(progress: Progress) -> bool:
        told.append(progress)
        return len(told) == 3

    stopped, steps = iterate(columns(normal(50, 2)), assess, limits(callback=callback))
    assert stopped == [Status.STOPPED] * 2 and steps == 3
    assert [p.num_iter for p in told] == [1, 2, 3] and told[-1].num_matvecs == 6
