"""The table of what recycling saves."""

from __future__ import annotations

import math

from benchmarks.problems import CLASSICAL
from benchmarks.recycling import METHODS, PROBLEMS, Spent, compare, spent


def test_a_table() -> None:
    rows = {"A": [Spent(3, 30, True), Spent(4, 10, True)], "B": [Spent(1, 10, True), Spent(2, 10, False)]}
    lines = compare(rows, [0, 5]).splitlines()
    assert lines[0] == "|  | recycle=0 | recycle=5 |"
    assert lines[2:] == [
        "| A | 3 + 30 | 4 + 10 |",
        "| B | 1 + 10 | 2 + 10! |",
        "| sum | 4 + 40 | 6 + 20 |",
        "| solved | 2 of 2 | 1 of 2 |",
        "| ratio | 1.00 | 0.50 |",
    ]


def test_runs_are_counted_and_judged() -> None:
    for make in METHODS.values():
        result = spent(CLASSICAL["BEALE"](), make(recycle=2), math.inf)
        assert result.solved and 5 < result.points < 50 and 5 < result.products < 50
    assert not spent(CLASSICAL["ROSENBR"](), METHODS["newton-cg"](recycle=2), 0.0).solved
    assert len(PROBLEMS) == 22
