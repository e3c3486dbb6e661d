"""Samples drawn in blocks until their mean is near enough to the expectation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hvplib.estimate.goal import Goal
from hvplib.estimate.samples import Samples, student
from hvplib.interrupt import Interrupt
from hvplib.results.estimate import EstimateProgress
from hvplib.results.status import Status

__all__ = ["LEAST", "Averaged", "Callback", "averaged", "confidence_at", "error_of", "next_look"]

Callback = Callable[[EstimateProgress], object]

# Samples before the first look at their error: with fewer, the intervals of skewed ones are too short.
LEAST = 16
# Each look takes at least so many times the samples of the last: the fewer looks, the less they can choose
# among errors that chance has made small. It aims at this margin over what the last look says is needed.
_GROWTH, _MARGIN = 1.5, 1.1
# Of the probability to be wrong, so much is left where it was looked more than once: an early stop prefers
# samples that happen to lie close together. The tests measure that this is what it costs.
_SPENT = 0.7


@dataclass(frozen=True)
class Averaged:
    """What `averaged` has found.

    Attributes:
        samples: Their moments.
        interval: Ends of the mean's interval, `bound` included on both sides.
        status: ESTIMATED, or why the tolerance was not reached.
        error: Half the length of the mean's interval, or for vectors a bound on the norm of its error; the
            part that is not chance's included.
        bound: That part.
        tolerance: The error allowed; infinite if none was asked for.
        history: Rows (products, mean or its norm, error), one for each block.
    """

    samples: Samples
    interval: tuple[Tensor, Tensor]
    status: Status
    error: float
    bound: float
    tolerance: float
    history: Tensor


def averaged(
    draw: Callable[[int], Tensor],
    goal: Goal,
    *,
    max_samples: int,
    block_size: int,
    spent: Callable[[], int],
    bound: Callable[[], float] = lambda: 0.0,
    callback: Callback | None = None,
) -> Averaged:
    """x̄ = (x_1 + ... + x_m) / m, with m as large as the goal wants, or as is allowed.

    The interval is looked at from `LEAST` samples on, and then after at least 1.5 times as many as at the
    last look, so that chance is asked a few times only whether it has been kind. From the second look on, the
    interval is that of a higher confidence, to make up for it. Without a tolerance `max_samples` are drawn,
    and their number depends on nothing.

    Args:
        draw: k ↦ k independent samples (k,), or (k, n) of vectors, of the same expectation; fewer where no
            more can be afforded, none to end.
        goal: The error wanted.
        max_samples: Most samples.
        block_size: Samples drawn at a time.
        spent: Products so far.
        bound: Error of x̄ so far that is not chance's: rounding, quadrature, solves.
        callback: Is told an `EstimateProgress` after each block; a true return value ends it.
    """
    run = _Run(goal, spent, bound, callback)
    look = min(LEAST, max_samples) if goal.asks else max_samples
    with Interrupt() as interrupt:
        while not run.ended:
            block = draw(min(block_size, look - run.samples.count))
            run.take(block)
            if not run.ended and (run.samples.count >= look or not block.shape[0]):
                look = run.look(max_samples, last=not block.shape[0])
            elif interrupt.came:
                run.end(Status.INTERRUPTED)
    return run.outcome()


def next_look(count: int, chance: float, room: float, most: int) -> int:
    """After how many samples to look again: so many that the error by chance should fit into its room."""
    needed = _MARGIN * count * (chance / room) ** 2 if room > 0 and math.isfinite(chance) else math.inf
    # Not further than four times: the prediction is itself an estimate.
    return min(most, max(math.ceil(_GROWTH * count), int(min(needed, 4.0 * count))))


def confidence_at(looks: int, goal: Goal) -> float:
    """The confidence of the interval that holds what the goal says after so many looks."""
    left = _SPENT if goal.asks and looks > 1 else 1.0
    return 1 - left * (1 - goal.confidence)


def error_of(samples: Samples, confidence: float) -> float:
    """Half the interval of the mean, or for vectors a bound on the norm of its error.

    The squared norm of a normal vector's error is a sum of χ²₁ with weights that sum to Σ stderr_i². No
    weights make values beyond t² times this more likely than one alone does, for a confidence of at least
    79 % (Székely, Bakirov 2003, Extremal probabilities for Gaussian quadratic forms,
    10.1007/s00440-003-0262-6): Student's t for one number serves for the norm.
    """
    if samples.mean.dim():
        return (
            student(confidence, samples.count) * float(samples.stderr.norm())
            if samples.count > 1
            else math.inf
        )
    low, high = samples.interval(confidence)
    return float(high - low) / 2


class _Run:
    """The state between blocks."""

    def __init__(
        self,
        goal: Goal,
        spent: Callable[[], int],
        bound: Callable[[], float],
        callback: Callback | None,
    ) -> None:
        self._goal, self._spent, self._bound, self._callback = goal, spent, bound, callback
        self._rows: list[tuple[float, float, float]] = []
        self.samples = Samples()
        self._status: Status | None = None
        self._looks = 0

    @property
    def ended(self) -> bool:
        return self._status is not None

    def end(self, status: Status) -> None:
        """End with this status, if it has not ended yet."""
        self._status = self._status or status

    def take(self, block: Tensor) -> None:
        """Take in a block; may end the run."""
        if not block.shape[0]:
            return
        self.samples.add(block)
        self._rows.append((self._spent(), self._size(), self._error()))
        if not math.isfinite(self._rows[-1][1]):
            self.end(Status.NON_FINITE)
        elif self._callback is not None:
            products, size, error = self._rows[-1]
            if self._callback(EstimateProgress(self.samples.count, int(products), size, error)):
                self.end(Status.STOPPED)

    def look(self, max_samples: int, *, last: bool) -> int:
        """Whether the error is small enough; if not, after how many samples to look again."""
        self._looks += 1
        count, error, tolerance = self.samples.count, self._error(), self._tolerance()
        if self._rows:
            self._rows[-1] = (*self._rows[-1][:2], error)
        last = last or count >= max_samples
        if error <= tolerance or (last and not self._goal.asks):
            self.end(Status.ESTIMATED)
        elif last:
            self.end(Status.MAX_MATVECS)
        if self.ended:
            return count
        return next_look(count, error - self._bound(), tolerance - self._bound(), max_samples)

    def outcome(self) -> Averaged:
        assert self._status is not None
        bound = self._bound()
        low, high = self.samples.interval(self._confidence())
        return Averaged(
            self.samples,
            (low - bound, high + bound),
            self._status,
            self._error(),
            bound,
            self._tolerance(),
            torch.tensor(self._rows, dtype=torch.float64).reshape(-1, 3),
        )

    def _size(self) -> float:
        mean = self.samples.mean
        return float(mean.norm()) if mean.dim() else float(mean)

    def _error(self) -> float:
        return error_of(self.samples, self._confidence()) + self._bound()

    def _confidence(self) -> float:
        return confidence_at(self._looks, self._goal)

    def _tolerance(self) -> float:
        return self._goal.tolerance(self._size())
