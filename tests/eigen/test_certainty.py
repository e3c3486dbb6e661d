from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hvplib.eigen.certainty import Certainty, are_shown, by_first_start, by_second_start, of_whole_space
from hvplib.eigen.missed import End
from hvplib.eigen.neighbours import Neighbours
from hvplib.eigen.task import Mark, Task

F64 = torch.float64
INF = math.inf
NONE = Neighbours.none()
TASK = Task(4, "LM", 1e-6, floor=1e-13, miss_probability=1e-3, max_matvecs=100)


# A start that has converged at both ends, and one of few steps.
def end(value: float, *norms: float) -> End:
    """The largest Ritz value, and residuals of it and of others farther in."""
    values = value - torch.arange(len(norms), dtype=F64)
    log_scale = sum(math.log(norm) for norm in norms)
    return End(500, values, torch.tensor(norms, dtype=F64), torch.zeros(0, dtype=F64), log_scale, 0.0)


SHARP = [end(2.0, 1e-9), end(1.5, 1e-9)]
BLUNT = [end(2.0, 1.0, 1.0), end(1.5, 1.0, 1.0)]
MARKS = [Mark(1, 3.0, 4.0), Mark(-1, 3.0, 4.5)]


def test_by_default_nothing_is_known() -> None:
    nothing = Certainty()
    assert math.isnan(nothing.miss_probability) and math.isnan(nothing.miss_resolution)
    assert nothing.elsewhere.tolist() == [[-INF, INF]]


@pytest.mark.parametrize(("others", "interval"), [((3.0, -1.0, 2.0), [-1.0, 3.0]), ((), [INF, -INF])])
def test_of_the_whole_space(others: tuple[float, ...], interval: list[float]) -> None:
    found = of_whole_space(torch.tensor(others, dtype=F64))
    assert (found.miss_probability, found.miss_resolution) == (0.0, 0.0)
    assert found.elsewhere.tolist() == [interval]


def test_units_scale_what_has_them() -> None:
    found = Certainty(0.1, 2.0, torch.tensor([[-INF, 3.0]], dtype=F64)).times(4.0)
    assert (found.miss_probability, found.miss_resolution) == (0.1, 8.0)
    assert found.elsewhere.tolist() == [[-INF, 12.0]]


def test_state_makes_it_again() -> None:
    one = Certainty(0.1, 2.0, torch.tensor([[-INF, 3.0]], dtype=F64))
    other = Certainty(*one.state())
    assert one.miss_probability == other.miss_probability and one.miss_resolution == other.miss_resolution
    assert torch.equal(one.elsewhere, other.elsewhere)


def test_the_first_start_tells_how_far_beyond_it_would_see() -> None:
    marks = [mark._replace(value=2.0) for mark in MARKS]
    found = by_first_start(TASK, SHARP, marks, norm=5.0)
    assert found.miss_probability == 1e-3 and 0 < found.miss_resolution < 1e-3
    total = sum(end.probability(2.0 + found.miss_resolution) for end in SHARP)
    assert total <= 1e-3 < 1.1 * total
    assert found.elsewhere.tolist() == [[-INF, INF]]
    assert by_first_start(TASK, BLUNT, marks, norm=5.0).miss_resolution == INF


def test_the_second_start_rules_out_copies_of_the_next_values() -> None:
    found, sure = by_second_start(TASK, SHARP, MARKS, NONE, norm=5.0)
    assert sure
    assert found.miss_probability == SHARP[0].probability(4.0) + SHARP[1].probability(4.5) <= 1e-3
    assert found.miss_resolution == 1.0
    # What the start has not shown lies inside of what it has, or hardly outside.
    low, high = found.elsewhere[0].tolist()
    assert 2.0 < high < 2.001 and -1.501 < low < -1.5
    assert SHARP[0].probability(high) <= 5e-4 and SHARP[1].probability(-low) <= 5e-4


def test_of_one_end_the_other_is_unknown() -> None:
    task = replace(TASK, which="SA")
    found, sure = by_second_start(task, SHARP[1:], MARKS[1:], NONE, norm=5.0)
    assert sure and found.elsewhere[0, 1] == INF and -1.501 < float(found.elsewhere[0, 0]) < -1.5


def test_a_start_of_few_steps_is_not_enough() -> None:
    found, sure = by_second_start(TASK, BLUNT, MARKS, NONE, norm=5.0)
    assert not sure and found.miss_probability > 1e-3 and found.elsewhere.tolist() == [[-INF, INF]]


def test_an_end_without_a_next_value_concerns_nothing() -> None:
    marks = [MARKS[0], MARKS[1]._replace(next=INF)]
    found, sure = by_second_start(TASK, [SHARP[0], BLUNT[1]], marks, NONE, norm=5.0)
    assert sure and found.miss_probability == SHARP[0].probability(4.0)
    # But of the other end, it has not shown where the others are.
    assert -INF < float(found.elsewhere[0, 1]) < INF and found.elsewhere[0, 0] < -4.0


def test_without_any_next_value_it_is_as_a_first_start() -> None:
    marks = [mark._replace(next=INF) for mark in MARKS]
    found, sure = by_second_start(TASK, SHARP, marks, NONE, norm=5.0)
    assert sure and found.miss_resolution == by_first_start(TASK, SHARP, marks, 5.0).miss_resolution


def test_where_residuals_are_rounding_no_more_can_be_had() -> None:
    task = replace(TASK, miss_probability=1e-14)
    exact = [end(2.0, 4e-13), end(1.5, 4e-13)]
    found, sure = by_second_start(task, exact, MARKS, NONE, norm=5.0)
    assert sure and found.miss_probability > 1e-14
    assert not by_second_start(task, exact, MARKS, NONE, norm=3.0)[1]


def test_an_exact_start_that_reaches_the_mark_rules_nothing_out() -> None:
    exact = [end(4.0, 1e-14), end(4.5, 1e-14)]  # where the next values are
    found, sure = by_second_start(TASK, exact, MARKS, NONE, norm=5.0)
    assert not sure and found.miss_probability == 1.0


@pytest.mark.parametrize(
    ("ends", "mark", "expected"),
    [(SHARP, 1.0, True), (BLUNT, 1.0, False), (BLUNT, 3.0, False), ([SHARP[0], BLUNT[1]], 1.0, False)],
)
def test_shown_is_what_has_converged(ends: list[End], mark: float, expected: bool) -> None:
    marks = [one._replace(value=mark) for one in MARKS]
    assert are_shown(TASK, ends, marks, norm=5.0) is expected


def test_shown_is_what_is_surely_far_inside() -> None:
    ends = [end(2.0, 1e-4), end(1.5, 1e-4)]
    assert are_shown(TASK, ends, [mark._replace(value=20.0) for mark in MARKS], norm=5.0)
    assert not are_shown(TASK, ends, [mark._replace(value=2.1) for mark in MARKS], norm=5.0)
