"""The least work with which a randomised method is accurate enough, over many seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Reached", "Trial", "fewest"]


@dataclass(frozen=True)
class Trial:
    """What one seed gave.

    Attributes:
        error: The true one.
        products: Spent.
        seconds: In all.
        stated: What the method says of its error, if anything.
    """

    error: float
    products: int
    seconds: float
    stated: float | None = None


@dataclass(frozen=True)
class Reached:
    """What a method gave with the least work that was enough, or with the most that was tried."""

    size: int
    enough: bool
    trials: Sequence[Trial]

    @property
    def error(self) -> float:
        return _root_mean_square([trial.error for trial in self.trials])

    @property
    def stated(self) -> float | None:
        stated = [trial.stated for trial in self.trials if trial.stated is not None]
        return _root_mean_square(stated) if stated else None

    @property
    def products(self) -> int:
        return round(statistics.median(trial.products for trial in self.trials))

    @property
    def seconds(self) -> float:
        return statistics.median(trial.seconds for trial in self.trials)


def fewest(method: Callable[[int, int], Trial], sizes: Sequence[int], target: float, seeds: int) -> Reached:
    """The first of the ascending sizes with which the root mean square of all seeds' errors is within target.

    A size is given up as soon as the squares that have been seen add up to more than all seeds together may
    have, so that a size that is far from enough costs few of them; the last size has all its seeds.

    Args:
        method: (size, seed) -> what it gave.
    """
    for size in sizes:
        trials: list[Trial] = []
        squares = 0.0
        while len(trials) < seeds and (squares <= seeds * target**2 or size == sizes[-1]):
            trials.append(method(size, len(trials)))
            squares += trials[-1].error ** 2
        if squares <= seeds * target**2:
            return Reached(size, True, trials)
    return Reached(size, False, trials)


def _root_mean_square(values: Sequence[float]) -> float:
    return statistics.fmean(value**2 for value in values) ** 0.5
