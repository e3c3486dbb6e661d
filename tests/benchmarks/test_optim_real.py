"""How the time to a loss is told, with contenders of known behaviour."""

from __future__ import annotations

import math
import time

import pytest

from benchmarks import optim_real
from benchmarks.optim_real import CONTENDERS, TARGETS, Course, compare, followed, told
from benchmarks.problems import REAL, Minimisation
from benchmarks.problems.real import factorisation


def _work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def falling(problem: Minimisation, course: Course) -> None:
    for spent, value in enumerate([5.0, 2.0, 3.0, 0.5, 0.1], start=1):
        _work(0.01)
        course.note_or_stop(value, 10 * spent)


def test_when_a_target_was_reached() -> None:
    course = followed(falling, factorisation(), [0.5], 60)
    assert [value for _, value, _ in course.rows] == [5.0, 2.0, 3.0, 0.5]
    assert course.lowest == 0.5
    elapsed, spent = course.reached(2.5) or (0, 0)
    assert spent == 20 and elapsed == course.rows[1][0] > 0.019
    assert course.reached(0.4) is None


def test_the_time_ends_a_course() -> None:
    course = followed(falling, factorisation(), [0.0], 0.025)
    assert len(course.rows) == 3


def test_nothing_was_reached() -> None:
    course = Course(0.0, 60)
    assert math.isnan(course.lowest) and told([course], 1e9) == "-"


def test_the_shortest_round_counts() -> None:
    slow, fast, never = Course(0, 60), Course(0, 60), Course(0, 60)
    slow.rows, fast.rows, never.rows = [(2.0, 1.0, 7)], [(0.25, 3.0, 5), (0.5, 1.0, 7)], [(0.1, 2.0, 1)]
    assert told([slow, fast, never], 1.0) == "0.5 s, 7"


def test_every_problem_has_targets_that_fall() -> None:
    for name, targets in TARGETS.items():
        problem = REAL[name]()
        assert float(problem.func(problem.x0)) > targets[0]
        assert list(targets) == sorted(targets, reverse=True)
        assert problem.minimum is None or targets[-1] == pytest.approx(problem.minimum, rel=2e-8)


@pytest.mark.parametrize("who", ["**hvplib trust-ncg**", "torch.optim.LBFGS", "SciPy L-BFGS-B"])
def test_contenders_reach_the_minimum(who: str) -> None:
    targets = TARGETS["matrix factorisation"]
    course = followed(CONTENDERS[who], factorisation(), targets, 60)
    assert course.lowest <= targets[-1]
    spent = [row[2] for row in course.rows]
    assert spent == sorted(spent) and 10 < spent[-1] < 200


def test_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim_real, "CONTENDERS", {"known": falling})
    header, _, row = compare(factorisation(), [4.0, 0.2, 0.01], 60, rounds=2).splitlines()
    assert header == "|  | f ≤ 4 | f ≤ 0.2 | f ≤ 0.01 | lowest f |"
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[0] == "known" and cells[1].endswith(" s, 20") and cells[2].endswith(" s, 50")
    assert cells[3:] == ["-", "0.1"]
