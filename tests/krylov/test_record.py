"""Bookkeeping of columns that end one by one."""

from __future__ import annotations

import torch

from hvplib.krylov.inner import EUCLIDEAN
from hvplib.krylov.record import Record
from hvplib.results.status import Status

F64 = torch.float64


def record() -> Record:
    return Record(torch.ones(4, 3, dtype=F64), torch.tensor([3.0, 2.0, 1.0], dtype=F64), 5, EUCLIDEAN)


def index(*columns: int) -> torch.Tensor:
    return torch.tensor(columns, dtype=torch.long)


def test_history_keeps_the_last_norm_of_a_column_that_has_ended() -> None:
    kept = record()
    kept.step([0, 2], [1.0, 0.5])
    kept.end(index(2), Status.CONVERGED)
    kept.step([0], [0.25])
    kept.revise(index(0), torch.tensor([3.0], dtype=F64))
    kept.end(index(0, 1), Status.MAX_ITER)
    outcome = kept.outcome()
    assert outcome.history.tolist() == [[3, 2, 1], [1, 2, 0.5], [0.25, 2, 0.5]]
    assert outcome.residual_norms.tolist() == [3, 2, 0.5]
    assert outcome.statuses == (Status.MAX_ITER, Status.MAX_ITER, Status.CONVERGED)
    assert (outcome.num_iter, outcome.num_matvecs) == (2, 5)
    assert outcome.direction is None and outcome.curvature is None


def test_a_column_ends_at_its_first_iterate_plus_a_correction() -> None:
    kept = record()
    kept.end(index(0, 2), Status.CONVERGED, torch.tensor([[1.0, 2.0]] * 4, dtype=F64))
    kept.end(index(1), Status.NON_FINITE)
    assert kept.outcome().x.tolist() == [[2, 1, 3]] * 4


def test_curvature_is_that_of_the_directions_met() -> None:
    kept = record()
    assert kept.without_direction(index(0, 1)).tolist() == [True, True]
    kept.meet(index(1), torch.full((4, 1), 2.0, dtype=F64), torch.tensor([-8.0], dtype=F64))
    assert kept.without_direction(index(0, 1)).tolist() == [True, False]
    kept.end(index(0, 1, 2), Status.STOPPED)
    outcome = kept.outcome()
    assert outcome.direction is not None and outcome.curvature is not None
    assert outcome.direction.tolist() == [[0, 2, 0]] * 4
    assert outcome.curvature[1] == -0.5
    assert outcome.curvature[[0, 2]].isnan().all()


def test_progress_is_a_copy() -> None:
    kept = record()
    progress = kept.progress()
    progress.residual_norms.zero_()
    assert kept.progress().residual_norms.tolist() == [3, 2, 1]
    assert (progress.num_iter, progress.num_matvecs) == (0, 5)
