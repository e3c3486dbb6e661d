"""One Krylov run from one start, through its restarts, and what it has shown of the ends of the spectrum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hvplib.eigen.missed import End
from hvplib.eigen.restart import kept
from hvplib.krylov.lanczos import Factorization, Ritz

__all__ = ["Start"]


class Start:
    """The active part of a factorisation since it was last begun afresh.

    Args:
        factorization: Just begun.
        signs: The ends of the spectrum that matter, 1 the upper, −1 the lower.
    """

    def __init__(self, factorization: Factorization, signs: list[int]) -> None:
        self._factorization, self._signs = factorization, signs
        self._uncut = 0  # steps before the first restart
        self._span = torch.zeros(0, dtype=torch.float64)  # extreme Ritz values at that restart

    def restart(self, ritz: Ritz, highest: int, lowest: int) -> None:
        """Shrink to Ritz vectors: so many at each end are wanted, others are kept to make them converge."""
        F = self._factorization
        norms = ritz.deflated_norms
        columns = kept(ritz.values, norms, highest, lowest, capacity=F.capacity, width=F.width)
        F.restart(ritz.vectors[:, columns])
        if not self._uncut:
            self._uncut, self._span = F.num_steps, ritz.values[[0, -1]]

    def seen(self, values: Tensor, norms: Tensor) -> list[End]:
        """What the active Ritz pairs show at each end that matters.

        Args:
            values: Ritz values (m,).
            norms: Their residual norms (m,) with the operator that this start was made for.
        """
        F, ends = self._factorization, []
        for sign in self._signs:
            outermost = int((sign * values).argmax())
            ordered = (sign * values).sort(descending=True).values.tolist()
            second = ordered[1] if len(ordered) > 1 else -float("inf")
            lowest = float((sign * torch.cat([values, self._span])).min())
            steps = self._uncut or F.num_steps
            ends.append(End(F.size - F.locked, ordered[0], float(norms[outermost]), second, lowest, steps))
        return ends

    def state(self) -> dict[str, Any]:
        """All that `load` needs, but for the factorisation."""
        return {"uncut": self._uncut, "span": self._span}

    def load(self, state: dict[str, Any]) -> None:
        """Become the one whose `state` this is."""
        self._uncut, self._span = state["uncut"], state["span"]
