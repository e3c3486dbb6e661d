from __future__ import annotations

import torch

from hvplib.eigen.start import Start
from hvplib.krylov.lanczos import Factorization
from tests.eigen.matrices import with_spectrum
from tests.krylov.factorizations import run, seeded

F64 = torch.float64
A = with_spectrum(torch.linspace(-1, 2, 60, dtype=F64))


def begun() -> Factorization:
    return Factorization(seeded(60)(1), capacity=12, size=60)


def test_what_is_seen_before_a_restart() -> None:
    F = run(begun(), A, 7)
    ritz, start = F.ritz(), Start(F, [1, -1])
    upper, lower = start.seen(ritz.values, ritz.residual_norms)
    values, norms = ritz.values.tolist(), ritz.residual_norms.tolist()
    assert (upper.size, upper.steps) == (lower.size, lower.steps) == (60, 7)
    assert (upper.value, upper.second, upper.smallest) == (values[-1], values[-2], values[0])
    assert (lower.value, lower.second, lower.smallest) == (-values[0], -values[1], -values[-1])
    assert (upper.residual_norm, lower.residual_norm) == (norms[-1], norms[0])


def test_of_a_single_value_there_is_no_second() -> None:
    F = run(begun(), A, 1)
    ritz = F.ritz()
    (end,) = Start(F, [-1]).seen(ritz.values, ritz.residual_norms)
    assert end.second == -float("inf") and end.smallest == end.value == -float(ritz.values[0])


def test_steps_and_span_are_those_before_the_first_restart() -> None:
    F = run(begun(), A)
    start, first = Start(F, [1]), F.ritz()
    before = F.num_steps
    start.restart(first, 2, 0)
    assert F.active < before
    run(F, A)
    start.restart(F.ritz(), 2, 0)
    F.restart(F.ritz().vectors[:, -2:])  # the lower end is thrown away
    run(F, A, 2)
    ritz = F.ritz()
    (end,) = start.seen(ritz.values, ritz.residual_norms)
    assert end.steps == before < F.num_steps
    # What was seen of the lower end still tells the width of the spectrum.
    assert end.smallest == float(first.values[0]) < float(ritz.values[0])


def test_locked_columns_are_no_part_of_the_space() -> None:
    F = run(Factorization(seeded(60)(1), capacity=12, size=60, lockable=3), A)
    F.restart(F.ritz().vectors[:, -3:])
    F.lock(3)
    F.renew(seeded(60, seed=2)(1))
    ritz = run(F, A, 4).ritz()
    assert Start(F, [1]).seen(ritz.values, ritz.deflated_norms)[0].size == 57


def test_state() -> None:
    F = run(begun(), A)
    start, other = Start(F, [1]), Start(F, [1])
    start.restart(F.ritz(), 2, 0)
    other.load(start.state())
    ritz = F.ritz()
    assert other.seen(ritz.values, ritz.residual_norms) == start.seen(ritz.values, ritz.residual_norms)
