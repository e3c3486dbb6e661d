"""What a method has found, and the result that is made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hvplib.estimate.averaged import Averaged
from hvplib.estimate.goal import Goal
from hvplib.results.estimate import Estimate
from hvplib.results.status import Status

__all__ = ["Found", "of_mean", "result_of"]


@dataclass(frozen=True)
class Found:
    """A number, or a vector of them (n,), and how far it may be off; the fields are those of `Estimate`."""

    value: Tensor
    stderr: Tensor
    interval: tuple[Tensor, Tensor]
    error: float
    tolerance: float
    bound: float
    status: Status
    num_samples: int
    history: Tensor
    note: str = ""

    @classmethod
    def exact(cls, value: Tensor, bound: float, goal: Goal, products: int) -> Found:
        """What chance had no part in."""
        finite = bool(value.isfinite().all())
        size = float(value.norm()) if value.dim() else float(value)
        return cls(
            value=value,
            stderr=torch.zeros_like(value),
            interval=(value - bound, value + bound),
            error=bound,
            tolerance=goal.tolerance(size),
            bound=bound,
            status=Status.EXACT if finite else Status.NON_FINITE,
            num_samples=0,
            history=torch.tensor([[products, size, bound]], dtype=torch.float64),
        )

    @classmethod
    def failed(cls, status: Status, goal: Goal, num_samples: int = 0) -> Found:
        """What is known where nothing is."""
        unknown = torch.tensor(math.nan, dtype=torch.float64)
        return cls(
            value=unknown,
            stderr=unknown,
            interval=(torch.full_like(unknown, -math.inf), torch.full_like(unknown, math.inf)),
            error=math.inf,
            tolerance=goal.tolerance(0.0),
            bound=0.0,
            status=status,
            num_samples=num_samples,
            history=torch.zeros(0, 3, dtype=torch.float64),
        )


def of_mean(mean: Averaged, shift: float = 0.0, note: str = "") -> Found:
    """What a mean of independent samples says, with something known beside it."""
    low, high = mean.interval
    history = mean.history.clone()
    if shift:
        history[:, 1] += shift
    return Found(
        value=mean.samples.mean + shift,
        stderr=mean.samples.stderr,
        interval=(low + shift, high + shift),
        error=mean.error,
        tolerance=mean.tolerance,
        bound=mean.bound,
        status=mean.status,
        num_samples=mean.samples.count,
        history=history,
        note=note or ("one sample tells nothing of its error" if mean.samples.count == 1 else ""),
    )


def result_of(
    found: Found,
    goal: Goal,
    matvecs: Mapping[str, int],
    method: Any,
    reason: str,
    back: Callable[[Tensor], Any] = float,
) -> Estimate:
    """The `Estimate`, with numbers in the form that `back` gives them."""
    low, high = found.interval
    return Estimate(
        value=back(found.value),
        stderr=back(found.stderr),
        interval=(back(low), back(high)),
        confidence=goal.confidence,
        error=found.error,
        tolerance=found.tolerance,
        bound=found.bound,
        status=found.status,
        num_samples=found.num_samples,
        matvecs=dict(matvecs),
        method=method,
        reason=reason,
        history=found.history,
        note=found.note,
    )
