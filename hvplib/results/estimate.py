"""What the stochastic estimates return: a value, how far it may be off, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hvplib.results.common import Printed, by_purpose
from hvplib.results.status import Status

__all__ = ["Estimate", "EstimateProgress"]


@dataclass(frozen=True, repr=False, eq=False)
class Estimate(Printed):
    """A value with P(low ≤ truth ≤ high) = confidence.

    Printed, it reads as a short report. Numbers are Python's for one number, and else an array, a tensor or a
    pytree, as what was given; intervals then are pointwise.

    Attributes:
        value: The estimate.
        stderr: Standard error of it: the standard deviation that it would show over many seeds, as far as
            this one seed tells. 0 where chance had no part.
        interval: (low, high). It is wider than Student's about the value where samples are skewed, and holds
            `bound` on both sides.
        confidence: Of the interval.
        error: Half the interval's length, or, of a vector, a bound on the norm of its error that holds with
            the confidence: what is compared with `tolerance`.
        tolerance: max(rtol |value|, atol), of norms for a vector; infinite if neither was given.
        bound: Error that is not chance's: an allowance for rounding, and what quadratures and solves leave.
        status: How the estimation ended: ESTIMATED, EXACT, or what went wrong.
        num_samples: Random vectors that took part.
        matvecs: Products made, by purpose.
        method: The settings that were used.
        reason: Why this method.
        history: Rows (products, value or its norm, error), one for each look at the samples; float64, on the
            CPU.
        note: What the status alone does not say.
    """

    value: Any
    stderr: Any
    interval: tuple[Any, Any]
    confidence: float
    error: float
    tolerance: float
    bound: float
    status: Status
    num_samples: int
    matvecs: Mapping[str, int]
    method: Any
    reason: str
    history: Tensor
    note: str = ""

    @property
    def success(self) -> bool:
        """Whether what was asked for was reached."""
        return self.status.success

    def _rows(self) -> list[tuple[str, str]]:
        allowed = f", allowed {self.tolerance:.3g}" if self.tolerance < float("inf") else ""
        return [
            *self._value(),
            ("error", f"{self.error:.3g}{allowed}"),
            ("method", f"{self.method} ({self.reason})"),
            ("samples", str(self.num_samples or "")),
            ("products", by_purpose(self.matvecs)),
            ("note", self.note),
        ]

    def _value(self) -> list[tuple[str, str]]:
        if not isinstance(self.value, float):
            return []
        low, high = self.interval
        return [
            ("value", f"{self.value:.6g} ± {self.stderr:.2g} (standard error)"),
            (f"{100 * self.confidence:g} %", f"{low:.6g} to {high:.6g}"),
        ]


@dataclass(frozen=True)
class EstimateProgress:
    """What a callback is told after each block of products; returning True asks to stop.

    Attributes:
        num_samples: Random vectors so far.
        num_matvecs: Products so far, one per column.
        value: The estimate so far, or its norm.
        error: Half its interval, or a bound on the norm of its error; infinite with one sample.
    """

    num_samples: int
    num_matvecs: int
    value: float
    error: float
