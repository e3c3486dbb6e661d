"""How sure it is that nothing was missed, and where what was not looked for must be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hvplib.eigen.missed import Shown, miss_bound, resolution_of
from hvplib.eigen.neighbours import Neighbours
from hvplib.eigen.task import Mark, Task

__all__ = ["Certainty", "are_shown", "by_first_start", "by_second_start", "of_whole_space"]

# No eigenvalue is farther out than so many times what is known of ‖A‖.
_BEYOND = 4


def _anywhere() -> Tensor:
    return torch.tensor([[-math.inf, math.inf]], dtype=torch.float64)


@dataclass(frozen=True)
class Certainty:
    """What is known of the eigenvalues that were not found; by default, nothing.

    Attributes:
        miss_probability: Bound on the probability that an eigenvalue was missed which lies beyond the last
            wanted one by `miss_resolution` or more; NaN if unknown.
        miss_resolution: See there.
        elsewhere: Interval (1, 2) that holds the eigenvalues of A deflated by the pairs found, but for the
            probability that was asked for; (−∞, ∞) if nothing is known, (∞, −∞) if there are none.
    """

    miss_probability: float = math.nan
    miss_resolution: float = math.nan
    elsewhere: Tensor = field(default_factory=_anywhere)

    def times(self, unit: float) -> Certainty:
        """The same of an operator that is so many times as large."""
        return replace(self, miss_resolution=self.miss_resolution * unit, elsewhere=self.elsewhere * unit)

    def state(self) -> list[Any]:
        """The arguments that make it again."""
        return list(astuple(self))


def of_whole_space(others: Tensor) -> Certainty:
    """Nothing can be missed: these (m,) are all the other eigenvalues."""
    low, high = (float(others.min()), float(others.max())) if others.numel() else (math.inf, -math.inf)
    return Certainty(0.0, 0.0, torch.tensor([[low, high]], dtype=torch.float64))


def by_first_start(task: Task, ends: Sequence[Shown], marks: list[Mark], norm: float) -> Certainty:
    """What the start that found the pairs says by itself: how far beyond the marks it would see.

    Args:
        task: What is searched for, with a probability asked for.
        ends: What the start has shown, at the ends of the marks.
        marks: Where a missed eigenvalue would matter.
        norm: ‖A‖, as far as it is known.
    """
    assert task.miss_probability is not None
    values = [mark.value for mark in marks]
    resolution = resolution_of(ends, values, task.miss_probability, scale=_BEYOND * norm)
    return Certainty(task.miss_probability, resolution)


def by_second_start(
    task: Task, ends: Sequence[Shown], marks: list[Mark], neighbours: Neighbours, norm: float
) -> tuple[Certainty, bool]:
    """What a random start beside the pairs found says of missed copies, and whether that is enough.

    A copy of the next value at an end would change the pairs. Where there are no next values, the start tells
    how far beyond the marks it would see. Arguments are those of `by_first_start`, and the neighbours that
    were deflated beside the pairs.
    """
    assert task.miss_probability is not None
    concerned = [(end, mark) for end, mark in zip(ends, marks, strict=True) if math.isfinite(mark.next)]
    if concerned:
        lowered = [neighbours.lowered(mark).next for _, mark in concerned]
        probability = miss_bound([end for end, _ in concerned], lowered)
        certainty = Certainty(probability, min(mark.next - mark.value for _, mark in concerned))
    else:
        certainty = by_first_start(task, ends, marks, norm)
    # Below the floor a residual is rounding, and more products bring no more certainty.
    exact = all(end.residual_norm <= task.floor * norm for end, _ in concerned)
    if not (
        certainty.miss_probability <= task.miss_probability or (exact and certainty.miss_probability < 1)
    ):
        return certainty, False
    return replace(certainty, elsewhere=_elsewhere(task, ends, neighbours, norm)), True


def are_shown(task: Task, ends: Sequence[Shown], marks: list[Mark], norm: float) -> bool:
    """Whether a start has shown what there is: its outermost pair converged, or surely far inside."""
    values = torch.tensor([end.value for end in ends], dtype=torch.float64)
    allowed = (task.miss_probability or 0.0) / len(ends)
    return all(
        end.residual_norm <= tolerance or end.probability(mark.value) <= allowed
        for end, mark, tolerance in zip(ends, marks, task.tolerances(values, norm).tolist(), strict=True)
    )


def _elsewhere(task: Task, ends: Sequence[Shown], neighbours: Neighbours, norm: float) -> Tensor:
    """The interval (1, 2) that holds all that a start might have shown, but for the probability."""
    assert task.miss_probability is not None
    interval, allowed = [-math.inf, math.inf], task.miss_probability / len(ends)
    for sign, end in zip(task.signs, ends, strict=True):
        beyond = resolution_of([end], [end.value], allowed, scale=_BEYOND * norm)
        interval[1 if sign > 0 else 0] = sign * neighbours.reach(sign, end.value + beyond)
    return torch.tensor([interval], dtype=torch.float64)
