"""A record held to the function itself, at points where it shows if they differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from hvplib.ad.derivatives import looks
from hvplib.ad.graph import graph_facts
from hvplib.ad.leaves import fresh
from hvplib.ad.objective import Objective, scalar
from hvplib.ad.randomness import NoRandomness
from hvplib.ad.trace.second_order import SecondOrder
from hvplib.ad.verify import probes

__all__ = ["Beside", "is_plain"]

# How far from a point, in units of its entries.
_STEP = 1e-3
_SMALLEST = 1e-2  # of these units


class Beside:
    """Whether a record is func: has its value beside the point, bit for bit, by the same operations.

    Not at the point: λ ‖x‖² is 0 at 0 for every λ, and what func reads beside its arguments may have changed
    since. There too only where func might raise: what does nothing but arithmetic with its numbers does the
    same everywhere. (What has points where torch's formulas break down is never recorded, as it is asked at
    each evaluation whether it is at one, and that depends on numbers.)

    Args:
        program: The record.
        looks: What func looked like when it was recorded.
        leaves: Primals of the kind that it is for.
    """

    def __init__(self, program: SecondOrder, looks: Hashable, leaves: Sequence[Tensor]) -> None:
        self._program = program
        self._looks = looks
        self._captures: bool | None = None
        (self._direction,) = probes(leaves, 1, seed=2)
        self._is_total = program.is_total
        self._spec = tree_flatten(tuple(leaves))[1]

    def shape(
        self, func: Callable[..., Any], leaves: Sequence[Tensor], data: Sequence[Tensor]
    ) -> torch.Size | None:
        """Of what func returns; None if the record is not known to be func at these leaves."""
        try:
            beside = self._compared(func, self._moved(leaves), data)
        except Exception:  # nobody asked for func there
            return None
        if beside is None:
            return None
        shape, finite = beside
        if self._is_total and finite:
            return shape
        at = self._compared(func, leaves, data)
        return None if at is None else at[0]

    def _moved(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        count = sum(x.numel() for x in leaves)
        norms = torch.stack(torch._foreach_norm(list(leaves))).tolist()
        step = _STEP * max(math.hypot(*norms) / count**0.5, _SMALLEST)
        return list(torch._foreach_add(list(leaves), self._direction, alpha=step))

    def _compared(
        self, func: Callable[..., Any], leaves: Sequence[Tensor], data: Sequence[Tensor]
    ) -> tuple[torch.Size, bool] | None:
        """The shape of the output and whether it is a number, where the record gives the same; else None."""
        recorded = self._program.value(leaves, data)
        objective = Objective(func, self._spec, noise=NoRandomness())
        own = [fresh(x) for x in leaves]
        grad_mode = torch.is_grad_enabled()
        with objective.session(), torch.enable_grad():
            output = objective.evaluate(own, "plain")
        if not isinstance(output, Tensor) or output.numel() != 1 or output.dtype != leaves[0].dtype:
            return None
        value = scalar(output)
        if not is_plain(objective) or objective.decides or looks(objective, value) != self._looks:
            return None
        if self._captures is None:  # the same for all graphs that look alike
            self._captures = graph_facts(value, own).captured
        if self._captures and grad_mode:
            return None  # the Hessian is to carry a graph
        number = value.item()
        return (output.shape, math.isfinite(number)) if _same(recorded.item(), number) else None


def _same(left: float, right: float) -> bool:
    """Bit for bit; NaN is equal to NaN here."""
    equal = left == right and math.copysign(1, left) == math.copysign(1, right)
    return equal or (math.isnan(left) and math.isnan(right))


def is_plain(objective: Objective) -> bool:
    """Whether nothing was met of which what is proven elsewhere says nothing."""
    return not (objective.singular or objective.undefined or objective.detached or objective.escaped)
