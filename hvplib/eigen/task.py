"""What a search looks for: how many pairs, at which ends of the spectrum, how exact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hvplib.krylov.ends import Ends, Which

__all__ = ["Mark", "Task"]


class Mark(NamedTuple):
    """Where at one end of the spectrum a missed eigenvalue would matter.

    Attributes:
        sign: 1 for the upper end, −1 for the lower, where values are negated.
        value: The last wanted value.
        next: The next wanted value beyond it that is not the same within the tolerances; ∞ if there is none.
            A missed copy of the last changes nothing, but one of the next does.
    """

    sign: int
    value: float
    next: float


@dataclass(frozen=True)
class Task:
    """What is searched for.

    Attributes:
        k: Pairs wanted.
        which: Which of them.
        rtol: ‖A x − θ x‖ ≤ max(rtol |θ|, floor ‖A‖).
        floor: Of the tolerance, relative to ‖A‖: what rounding leaves.
        miss_probability: See `Lanczos`.
        max_matvecs: Bound on the products.
    """

    k: int
    which: Which
    rtol: float
    floor: float
    miss_probability: float | None
    max_matvecs: int

    def wanted(self, values: Tensor) -> Tensor:
        """Indices of the wanted among these values, in the order in which they are reported."""
        return Ends(self.which, self.k, 0, 0).wanted(values)

    def rivals(self, values: Tensor, norms: Tensor, converged: Tensor, wanted: Tensor) -> tuple[int, int]:
        """How many Ritz pairs at the upper and at the lower end may still take the place of a wanted one."""
        found = Ends(self.which, self.k, 0, 0).rivals(values, norms, converged, wanted)
        return sum(sign > 0 for _, sign in found), sum(sign < 0 for _, sign in found)

    def tolerances(self, values: Tensor, norm: float) -> Tensor:
        """What a residual norm may be, where ‖A‖ is `norm`."""
        return (self.rtol * values.abs()).clamp(min=self._least(norm))

    @property
    def signs(self) -> list[int]:
        """The ends of the spectrum that hold wanted pairs, or might: 1 the upper, −1 the lower."""
        return {"LA": [1], "SA": [-1], "BE": [1, -1] if self.k > 1 else [1], "LM": [1, -1]}[self.which]

    def counts(self, values: Tensor) -> tuple[int, int]:
        """How many of the k wanted values are at the upper end, and how many at the lower."""
        k = self.k
        if self.which == "LM":
            highest = int((values > 0).sum())
            return highest, k - highest
        return {"LA": (k, 0), "SA": (0, k), "BE": ((k + 1) // 2, k // 2)}[self.which]

    def marks(self, values: Tensor, norm: float) -> list[Mark]:
        """The marks at the ends that matter, for the k wanted values in the order of `wanted`."""
        _, lowest = self.counts(values)
        upper, lower = {
            "LA": (values, values[:0]),
            "SA": (values[:0], -values),
            "BE": (values[lowest:], -values[:lowest]),
            "LM": (values.abs(), values.abs()),
        }[self.which]
        groups = {1: upper.tolist(), -1: lower.tolist()}
        return [self._mark(sign, groups[sign], norm) for sign in self.signs]

    def beyond(self, values: Tensor, marks: list[Mark], norm: float) -> Tensor:
        """Which of the values lie beyond a mark, by more than its tolerance."""
        beyond = torch.zeros(values.numel(), dtype=torch.bool)
        for mark in marks:
            beyond |= mark.sign * values > mark.value + self._tolerance(mark.value, norm)
        return beyond

    def _mark(self, sign: int, group: list[float], norm: float) -> Mark:
        last = min(group)
        # Each by its own tolerance: one far out has a large one, which says nothing of those near zero.
        limit = last + self._tolerance(last, norm)
        distinct = [value for value in group if value - self._tolerance(value, norm) > limit]
        return Mark(sign, last, min(distinct, default=math.inf))

    def _tolerance(self, value: float, norm: float) -> float:
        return max(self.rtol * abs(value), self._least(norm))

    def _least(self, norm: float) -> float:
        return max(self.floor * norm, torch.finfo(torch.float64).tiny)
