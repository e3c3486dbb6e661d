"""Contenders set up, held against the right answer, and timed side by side; the absent say why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.timing import interleaved, ratios

__all__ = ["Absent", "Score", "contest"]

# Relative, in float32: rounding stays below 1e-5 on all problems.
_WRONG = 1e-3

Call = Callable[[], object]


class Absent(Exception):
    """Raised by a contender that has no way of taking part; its text goes into the table."""


@dataclass(frozen=True)
class Score:
    """What the table says of one contender.

    Attributes:
        seconds: Median time of a call; None if it does not take part.
        ratio: Median over rounds of its time over that of the unit.
        remark: Why it does not take part, or that its answer is wrong.
    """

    seconds: float | None = None
    ratio: float | None = None
    remark: str = ""


def contest(
    builders: Mapping[str, Callable[[], Call]],
    unit: str,
    error: Callable[[str, object], float],
    *,
    budget: float,
    at_least: int = 5,
) -> dict[str, Score]:
    """Set up all contenders and time those that can be.

    Args:
        builders: By name, a function that sets the contender up (not timed) and returns what is timed.
        unit: Name of the contender whose time is 1.
        error: From a contender's name and result to its relative error.
        budget: Seconds to spend on timing.
        at_least: Rounds to run even if the budget is spent.
    """
    calls: dict[str, Call] = {}
    scores: dict[str, Score] = {}
    for name, build in builders.items():
        try:
            call = build()
            wrong = error(name, call())
        except Exception as reason:  # a peer may fail in any way, and the table says so
            scores[name] = Score(remark=_told(reason))
            continue
        calls[name] = call
        scores[name] = Score(remark=f"(wrong: {wrong:.1g})" if not wrong < _WRONG else "")
    timings = interleaved(calls, budget=budget, at_least=at_least)
    measured = ratios(timings, unit)
    for name, timing in timings.items():
        scores[name] = Score(timing.median, measured[name], scores[name].remark)
    return scores


def _told(reason: Exception) -> str:
    if isinstance(reason, Absent):
        return str(reason)
    if isinstance(reason, ModuleNotFoundError):
        return f"not installed ({reason.name})"
    return f"fails ({type(reason).__name__})"
