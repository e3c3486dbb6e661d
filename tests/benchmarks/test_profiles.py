"""Performance profiles on a table small enough to be read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.profiles import draw, profile, ratios

COSTS = {
    "first": {"a": 10.0, "b": 40.0, "c": math.inf, "d": math.inf},
    "second": {"a": 30.0, "b": 20.0, "c": 7.0, "d": math.inf},
}


def test_ratios_to_the_least() -> None:
    assert ratios(COSTS) == {"first": [1, 2, math.inf, math.inf], "second": [3, 1, 1, math.inf]}


def test_a_problem_left_out_is_not_solved() -> None:
    assert ratios({"first": {"a": 1.0}, "second": {"b": 1.0}}) == {
        "first": [1, math.inf],
        "second": [math.inf, 1],
    }


def test_no_cost_at_all_is_the_least() -> None:
    assert ratios({"first": {"a": 0.0}, "second": {"a": 5.0}}) == {"first": [1], "second": [math.inf]}


@pytest.mark.parametrize(
    ("tau", "first", "second"),
    [(1, 0.25, 0.5), (2, 0.5, 0.5), (2.9, 0.5, 0.5), (3, 0.5, 0.75), (1e9, 0.5, 0.75)],
)
def test_share_within_tau(tau: float, first: float, second: float) -> None:
    assert profile(COSTS, tau) == {"first": first, "second": second}


def test_figure(tmp_path: Path) -> None:
    path = tmp_path / "new" / "profiles.png"
    draw({"left": COSTS, "right": COSTS}, path)
    assert path.read_bytes()[:4] == b"\x89PNG"
