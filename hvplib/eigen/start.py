"""One Krylov run from one start, through its restarts, and what it has shown of the ends of the spectrum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hvplib.eigen.missed import BlockEnd, End
from hvplib.eigen.restart import kept
from hvplib.krylov.lanczos import Factorization
from hvplib.krylov.ritz import Ritz

__all__ = ["Start"]

# Probabilities that are no more than so many roundings are not told apart.
_ROUNDINGS = 10.0


class Start:
    """The active part of a factorisation since it was last begun afresh.

    Args:
        factorization: Just begun.
        signs: The ends of the spectrum that matter, 1 the upper, −1 the lower.
    """

    def __init__(self, factorization: Factorization, signs: list[int]) -> None:
        self._factorization, self._signs = factorization, signs
        self._single = factorization.width <= 1
        self._given_up = torch.zeros(0, dtype=torch.float64)
        self._uncut = 0  # steps before the first restart
        self._span = torch.zeros(0, dtype=torch.float64)  # extreme Ritz values at that restart

    def restart(self, ritz: Ritz, highest: int, lowest: int) -> None:
        """Shrink to Ritz vectors: so many at each end are wanted, others are kept to make them converge."""
        F = self._factorization
        norms = ritz.deflated_norms
        columns = kept(ritz.values, norms, highest, lowest, capacity=F.room, width=F.width)
        others = torch.ones(ritz.values.numel(), dtype=torch.bool)
        others[columns] = False
        F.restart(ritz.vectors[:, columns])
        self._given_up = torch.cat([self._given_up, ritz.values[others]])
        if not self._uncut:
            self._uncut, self._span = F.num_steps, ritz.values[[0, -1]]

    def seen(self, values: Tensor, norms: Tensor) -> list[End] | list[BlockEnd]:
        """What the active Ritz pairs show at each end that matters.

        Args:
            values: Ritz values (m,).
            norms: Their residual norms (m,) with the operator that this start was made for.
        """
        F = self._factorization
        size = F.size - F.locked
        if self._single:
            given_up, rounding = self._given_up, _ROUNDINGS * F.eps
            return [
                End(size, sign * values, norms, sign * given_up, F.log_scale, rounding)
                for sign in self._signs
            ]
        spanned, steps = torch.cat([values, self._span]), self._uncut or F.num_steps
        return [
            BlockEnd(size, float((sign * values).max()), float((sign * spanned).min()), steps)
            for sign in self._signs
        ]

    def state(self) -> dict[str, Any]:
        """All that `load` needs, but for the factorisation."""
        return {"single": self._single, "given_up": self._given_up, "uncut": self._uncut, "span": self._span}

    def load(self, state: dict[str, Any]) -> None:
        """Become the one whose `state` this is."""
        self._single, self._given_up = state["single"], state["given_up"]
        self._uncut, self._span = state["uncut"], state["span"]
