"""Times of several contenders taken side by side, so that what disturbs one disturbs all."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Timing", "clock", "interleaved", "is_cpu_time", "ratios", "take_cpu_time"]

# A slot this long hides the clock and lets a contender run in its own caches, as it would in a solver's loop.
_SLOT = 5e-3


_clock = time.perf_counter


def clock() -> float:
    """Seconds, of which only differences mean anything."""
    return _clock()


def is_cpu_time() -> bool:
    """Whether `clock` tells the processor's time."""
    return _clock is time.process_time


def take_cpu_time() -> None:
    """From now on `clock` tells what this process has spent on all its threads, whatever others do."""
    global _clock
    _clock = time.process_time


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one contender, one entry per round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over rounds."""
        return statistics.median(self.rounds)

    @property
    def best(self) -> float:
        """The minimum over rounds: what the machine can do undisturbed."""
        return min(self.rounds)


def interleaved(
    contenders: Mapping[str, Callable[[], object]], *, budget: float, at_least: int = 5
) -> dict[str, Timing]:
    """Time all contenders in rounds: every round runs each once, in an order that rotates.

    Args:
        contenders: What to call, by name; each has run before (lazy imports, kernels chosen on first use).
        budget: Seconds to spend on all of them together, warm-up excluded.
        at_least: Rounds to run even if the budget is spent.

    Returns:
        For each name, seconds per call in each round.
    """
    repeats = {}
    for name, call in contenders.items():
        repeats[name] = max(1, round(_SLOT / max(_seconds(call, 1), 1e-7)))
    gc.collect()
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(samples[order[0]]) < at_least:
        for name in order:
            samples[name].append(_seconds(contenders[name], repeats[name]))
        order.append(order.pop(0))
    return {name: Timing(tuple(seconds)) for name, seconds in samples.items()}


def ratios(timings: Mapping[str, Timing], unit: str) -> dict[str, float]:
    """The median over rounds of each contender's time over that of `unit` in the same round."""
    base = timings[unit].rounds
    return {
        name: statistics.median(own / of for own, of in zip(timing.rounds, base, strict=True))
        for name, timing in timings.items()
    }


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats
