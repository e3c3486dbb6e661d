"""Means of terms that each leave out one random vector, and serve each other: their spread, when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hvplib.estimate.averaged import LEAST, Callback, confidence_at, next_look
from hvplib.estimate.decay import is_steep, reaches
from hvplib.estimate.found import Found
from hvplib.estimate.goal import Goal
from hvplib.estimate.samples import Samples, between, student
from hvplib.interrupt import Interrupt
from hvplib.krylov.host import NonFiniteError
from hvplib.results.estimate import EstimateProgress
from hvplib.results.status import Status

__all__ = ["IndefiniteError", "Sketch", "Terms", "exchanged"]


_EXHAUSTED = "the sketch holds the whole range of A, up to rounding"
_WIDE = "each vector more halves the variance or better: the interval is wide, and holds more than it says"


class IndefiniteError(ArithmeticError):
    """A vector x with xᵀA x < 0 was met."""


class Terms(NamedTuple):
    """t_1, ..., t_k, each without bias, exchangeable.

    Attributes:
        values: t (k,), or (k, n) of vectors; float64.
        covariance: Estimate of the covariance of two of them, 0-d or (n,): the mean over i ≠ j of
            (t_i − t_ij)(t_j − t_ji), where t_ij is t_i with the vector j left out as well. That is without
            bias: t_ij and t_j − t_ji are not correlated, for given all vectors but j the former is fixed,
            and both parts of the latter have the truth for their mean. Nor are t_ij and t_ji, given all
            others.
        growth: By what factor the variance of a term grows if one vector more is left out, for numbers; None
            for vectors.
    """

    values: Tensor
    covariance: Tensor
    growth: float | None = None

    def mean(self) -> Tensor:
        return self.values.mean(0)

    def stderr(self) -> Tensor:
        """Var t̄ = (V − C) / k + C, and the spread of the terms tells V − C."""
        k = self.values.shape[0]
        if k < 2:
            return torch.full_like(self.mean(), math.inf)
        spread = self.values.var(0) / k
        # The estimate of C strays where C is small; it is let correct the spread downwards by half.
        return torch.maximum(spread + self.covariance.to(spread), spread / 2).sqrt()

    def interval(self, confidence: float) -> tuple[Tensor, Tensor]:
        """Of numbers by `decay.reaches`, of vectors as `Samples.interval`; with the whole standard error."""
        k, mean, stderr = self.values.shape[0], self.mean(), self.stderr()
        t, samples = student(confidence, k), Samples()
        samples.add(self.values)
        if self.growth is None:
            return between(mean, stderr, samples.skewness / math.sqrt(k), t)
        below, above = reaches(t, self.growth, float(samples.skewness))
        return mean - below * stderr, mean + above * stderr


class Sketch(Protocol):
    """Random vectors, their products, and the terms that they give."""

    @property
    def exhausted(self) -> bool:
        """Whether more vectors would tell nothing: what is left of A is rounding."""

    def grow(self, columns: int) -> None:
        """Take in so many more vectors."""

    def terms(self) -> Terms:
        """One for each vector so far."""


def exchanged(
    sketch: Sketch,
    goal: Goal,
    *,
    max_samples: int,
    block_size: int,
    spent: Callable[[], int],
    bound: Callable[[], float],
    callback: Callback | None,
) -> Found:
    """t̄ of as many terms as the goal wants, or as are allowed; looks as in `averaged`."""
    run = _Run(sketch, goal, spent, bound, callback)
    look = min(LEAST, max_samples) if goal.asks else max_samples
    with Interrupt() as interrupt:
        try:
            while not run.status:
                run.grow(min(block_size, look - run.count))
                if not run.status and (run.count >= look or sketch.exhausted):
                    look = run.look(max_samples)
                elif interrupt.came:
                    run.end(Status.INTERRUPTED)
        except NonFiniteError:
            run.end(Status.NON_FINITE)
        except IndefiniteError:
            run.end(Status.INDEFINITE)
    return run.found()


class _Run:
    """The state between blocks."""

    def __init__(
        self,
        sketch: Sketch,
        goal: Goal,
        spent: Callable[[], int],
        bound: Callable[[], float],
        callback: Callback | None,
    ) -> None:
        self._sketch, self._goal, self._spent, self._bound = sketch, goal, spent, bound
        self._callback = callback
        self._rows: list[tuple[float, float, float]] = []
        self._looks = 0
        self._terms: Terms | None = None
        self.count = 0
        self.status: Status | None = None

    def end(self, status: Status) -> None:
        """End with this status, if it has not ended yet."""
        self.status = self.status or status

    def grow(self, columns: int) -> None:
        """More vectors; may end the run."""
        self._terms = None
        self._sketch.grow(columns)
        self.count += columns
        if self._callback is not None:
            _, size, error = self._now()
            if self._callback(EstimateProgress(self.count, self._spent(), size, error)):
                self.end(Status.STOPPED)

    def look(self, most: int) -> int:
        """Whether the error is small enough; if not, after how many vectors to look again."""
        self._looks += 1
        _, size, error = self._now()
        self._rows.append((self._spent(), size, error))
        tolerance, bound = self._goal.tolerance(size), self._bound()
        if self._sketch.exhausted:
            self.end(Status.EXACT)
        elif error <= tolerance or (self.count >= most and not self._goal.asks):
            self.end(Status.ESTIMATED)
        elif self.count >= most:
            self.end(Status.MAX_MATVECS)
        return self.count if self.status else next_look(self.count, error - bound, tolerance - bound, most)

    def found(self) -> Found:
        assert self.status is not None
        failed = self.status in (Status.NON_FINITE, Status.INDEFINITE)
        if failed or not self.count:
            return Found.failed(self.status, self._goal, self.count)
        terms, size, error = self._now()
        bound = self._bound()
        low, high = terms.interval(confidence_at(self._looks, self._goal))
        exact = self.status is Status.EXACT
        rows = self._rows or [(self._spent(), size, error)]
        return Found(
            value=terms.mean(),
            stderr=torch.zeros_like(terms.mean()) if exact else terms.stderr(),
            interval=(low - bound, high + bound),
            error=error,
            tolerance=self._goal.tolerance(size),
            bound=bound,
            status=self.status,
            num_samples=self.count,
            history=torch.tensor(rows, dtype=torch.float64),
            note=_EXHAUSTED if exact else _WIDE if is_steep(terms.growth or 1.0) else "",
        )

    def _now(self) -> tuple[Terms, float, float]:
        """The terms, the size of their mean, and its error."""
        self._terms = self._terms or self._sketch.terms()
        mean, confidence = self._terms.mean(), confidence_at(self._looks, self._goal)
        if mean.dim():
            size = float(mean.norm())
            chance = student(confidence, self.count) * float(self._terms.stderr().norm())
        else:
            size = float(mean)
            low, high = self._terms.interval(confidence)
            chance = float(high - low) / 2
        if not math.isfinite(size):
            raise NonFiniteError
        return self._terms, size, chance + self._bound()
