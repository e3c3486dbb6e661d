from __future__ import annotations

import math

import pytest
import torch

from hvplib.eigen.missed import BlockEnd, End
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
    assert isinstance(upper, End) and isinstance(lower, End)
    assert upper.size == lower.size == 60
    assert torch.equal(upper.values, ritz.values) and torch.equal(lower.values, -ritz.values)
    assert upper.residual_norms is lower.residual_norms is ritz.residual_norms
    assert upper.given_up.numel() == lower.given_up.numel() == 0
    # What each product brought in that was new, by the small matrix and by what all residuals are.
    new = [*F.T[: F.count, : F.count].diagonal(1).tolist(), float(ritz.residual_norms.norm())]
    assert upper.log_scale == lower.log_scale == pytest.approx(sum(math.log(abs(x)) for x in new), rel=1e-12)
    assert upper.rounding == 10 * F.eps


def test_restarts_add_to_what_was_given_up() -> None:
    F = run(begun(), A)
    start, first = Start(F, [1, -1]), F.ritz()
    start.restart(first, 2, 0)
    run(F, A)
    second = F.ritz()
    start.restart(second, 2, 0)
    run(F, A, 2)
    ritz = F.ritz()
    upper, lower = start.seen(ritz.values, ritz.residual_norms)
    assert isinstance(upper, End) and isinstance(lower, End)
    assert set(upper.given_up.tolist()) <= {*first.values.tolist(), *second.values.tolist()}
    assert torch.equal(lower.given_up, -upper.given_up)
    # All roots of the polynomial that was applied to the start: one for each product.
    assert upper.given_up.numel() + upper.values.numel() == F.num_steps


def block() -> Factorization:
    return run(Factorization(seeded(60)(2), capacity=12, size=60), A)


def test_of_a_block_steps_and_span_are_those_before_the_first_restart() -> None:
    F = block()
    start, first = Start(F, [1]), F.ritz()
    before = F.num_steps
    start.restart(first, 2, 0)
    assert F.active < 12
    run(F, A)
    start.restart(F.ritz(), 2, 0)
    F.restart(F.ritz().vectors[:, -2:])  # the lower end is thrown away
    run(F, A, 2)
    ritz = F.ritz()
    (end,) = start.seen(ritz.values, ritz.residual_norms)
    assert isinstance(end, BlockEnd)
    assert end.steps == before < F.num_steps and end.value == float(ritz.values[-1])
    # What was seen of the lower end still tells the width of the spectrum.
    assert end.smallest == float(first.values[0]) < float(ritz.values[0])


def test_of_a_block_the_lower_end_is_negated() -> None:
    F = block()
    ritz = F.ritz()
    (end,) = Start(F, [-1]).seen(ritz.values, ritz.residual_norms)
    assert isinstance(end, BlockEnd)
    assert (end.value, end.smallest) == (-float(ritz.values[0]), -float(ritz.values[-1]))


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
    (before,), (after,) = (one.seen(ritz.values, ritz.residual_norms) for one in (start, other))
    assert isinstance(before, End) and isinstance(after, End)
    assert torch.equal(before.given_up, after.given_up) and before.given_up.numel()
    assert before.probability(3.0) == after.probability(3.0)
    blocks = Start(block(), [1])
    blocks.load(start.state())
    assert isinstance(blocks.seen(ritz.values, ritz.residual_norms)[0], End)
