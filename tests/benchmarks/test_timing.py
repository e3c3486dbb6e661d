"""Times are those of the clock that was asked for, and ratios are taken round by round."""

from __future__ import annotations

import time

import pytest

from benchmarks import timing
from benchmarks.timing import Timing, interleaved, is_cpu_time, ratios, take_cpu_time


def test_contenders_are_timed_by_the_clock_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender that sleeps takes no processor time."""
    monkeypatch.setattr(timing, "_clock", time.perf_counter)
    waiting = {"waits": lambda: time.sleep(2e-3)}
    assert interleaved(waiting, budget=0.0, at_least=3)["waits"].median > 1.9e-3
    take_cpu_time()
    assert is_cpu_time()
    assert interleaved(waiting, budget=0.0, at_least=3)["waits"].median < 1e-3


def test_ratios_are_those_of_a_round() -> None:
    timings = {"unit": Timing((1.0, 2.0, 4.0)), "other": Timing((2.0, 2.0, 12.0))}
    assert ratios(timings, "unit") == {"unit": 1.0, "other": 2.0}
