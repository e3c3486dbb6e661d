"""Gauss rules of probes: what memory allows, blocks, and ends from outside."""

from __future__ import annotations

import math

import pytest
import torch

from hvplib import Diagonal
from hvplib.estimate import probed as module
from hvplib.estimate.probed import Plan, planned, probed, sphere
from hvplib.interrupt import Interrupt
from hvplib.results.status import Progress, Status

F64 = torch.float64
A = Diagonal(torch.linspace(1, 2, 40, dtype=F64))


def test_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned(A, 100, 60, reorthogonalize=None, block_size=None) == Plan(40, 40, 16)
    assert planned(A, 3, 10, reorthogonalize=None, block_size=None) == Plan(10, 10, 3)
    assert planned(A, 100, 60, reorthogonalize=False, block_size=7) == Plan(60, 0, 7)
    vector = 40 * 8
    monkeypatch.setattr(module, "free_bytes", lambda device: 2 * 20 * vector)  # half of it: 20 vectors
    assert planned(A, 100, 15, reorthogonalize=None, block_size=None) == Plan(15, 15, 1)
    assert planned(A, 100, 16, reorthogonalize=None, block_size=None) == Plan(16, 0, 4)
    assert planned(A, 100, 5, reorthogonalize=True, block_size=None) == Plan(5, 5, 2)
    with pytest.raises(MemoryError, match=r"reorthogonalize=True keeps 16 vectors, .* lower krylov_dim"):
        planned(A, 100, 16, reorthogonalize=True, block_size=None)
    with pytest.raises(ValueError, match="block_size must be at least 1, or None, got 0"):
        planned(A, 100, 16, reorthogonalize=None, block_size=0)


def test_rules_have_the_moments_of_their_probes() -> None:
    probes = sphere(A, 0)
    Z = []

    def draw(count: int) -> torch.Tensor:
        Z.append(probes.block(count))
        return Z[-1]

    with Interrupt() as interrupt:
        rules, status = probed(A, draw, 5, Plan(6, 6, 2), deadline=math.inf, interrupt=interrupt)
    assert status is Status.ESTIMATED and [z.shape[1] for z in Z] == [2, 2, 1] and len(rules) == 5
    for rule, z in zip(rules, torch.cat(Z, 1).mT, strict=True):
        assert float(rule.weights.sum()) == pytest.approx(1.0, rel=1e-13)
        for power in range(12):  # a rule of 6 nodes is exact up to degree 11
            moment = float((z.square() * A.diagonal**power).sum() / z.square().sum())
            assert float((rule.weights * rule.nodes**power).sum()) == pytest.approx(moment, rel=1e-11)


def test_ends_from_outside() -> None:
    told: list[Progress] = []

    def callback(progress: Progress) -> bool:
        told.append(progress)
        return len(told) == 4

    options = {"deadline": math.inf, "interrupt": Interrupt(), "callback": callback}
    rules, status = probed(A, sphere(A, 0).block, 6, Plan(3, 3, 2), **options)  # type: ignore[arg-type]
    assert status is Status.STOPPED and len(rules) == 4 and rules[-1].recurrence.steps == 1
    assert [p.num_iter for p in told] == [1, 2, 3, 4] and [p.num_matvecs for p in told] == [2, 4, 6, 8]
    rules, status = probed(A, sphere(A, 0).block, 6, Plan(3, 3, 2), deadline=-math.inf, interrupt=Interrupt())
    assert status is Status.TIME_LIMIT and len(rules) == 2
    bad = Diagonal(torch.full((40,), math.nan, dtype=F64))
    rules, status = probed(
        bad, sphere(bad, 0).block, 6, Plan(3, 3, 2), deadline=math.inf, interrupt=Interrupt()
    )
    assert status is Status.NON_FINITE and rules == []
