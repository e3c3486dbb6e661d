"""Which eigenpairs are wanted: at one end of the spectrum, at both, or of the largest magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Ends", "Which"]

# A Ritz value on its way outwards may be far from where it ends when its residual is already small.
_MARGIN = 10.0

Which = Literal["LA", "SA", "BE", "LM"]


@dataclass(frozen=True)
class Ends:
    """The k wanted pairs, and how many candidates an iteration keeps for them at each end.

    Attributes:
        which: "LA" the largest, "SA" the smallest, "BE" ⌈k/2⌉ largest and ⌊k/2⌋ smallest, "LM" the largest in
            magnitude.
        k: How many are wanted.
        num_largest: Candidates kept at the upper end.
        num_smallest: Candidates kept at the lower end.
    """

    which: Which
    k: int
    num_largest: int
    num_smallest: int

    @staticmethod
    def of(which: Which, k: int, block_size: int) -> Ends:
        """Share the columns of a block out between the ends.

        Raises:
            ValueError: The block is too small: it must hold k candidates, for "LM" k at each end.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        least = 2 * k if which == "LM" else k
        if block_size < least:
            raise ValueError(
                f"X must have at least {least} columns for k={k} and which={which!r}, got {block_size}; "
                "give a larger block or ask for fewer pairs"
            )
        upper = {"LA": block_size, "SA": 0, "BE": (block_size + 1) // 2, "LM": (block_size + 1) // 2}[which]
        return Ends(which, k, upper, block_size - upper)

    def kept(self, values: Tensor, errors: Tensor) -> Tensor:
        """Indices of the candidates among all values (m,): the largest, then the smallest.

        Of equal values those of the least error come first.
        """
        ordered = errors.argsort(stable=True)
        upper = ordered[values[ordered].argsort(descending=True, stable=True)][: self.num_largest]
        lower = ordered[values[ordered].argsort(stable=True)]
        return torch.cat([upper, lower[~torch.isin(lower, upper)][: self.num_smallest]])

    def wanted(self, values: Tensor) -> Tensor:
        """Indices of the wanted k among the candidates' values, in the order in which they are reported.

        "LA" descending, "SA" and "BE" ascending, "LM" by descending magnitude. Of equal values the first are
        taken.
        """
        if self.which == "LM":
            return values.abs().argsort(descending=True, stable=True)[: self.k]
        ascending = values.argsort(stable=True)
        if self.which == "SA":
            return ascending[: self.k]
        descending = values.argsort(descending=True, stable=True)
        if self.which == "LA":
            return descending[: self.k]
        upper = descending[: (self.k + 1) // 2].flip(0)
        return torch.cat([ascending[~torch.isin(ascending, upper)][: self.k // 2], upper])

    def settled(self, values: Tensor, errors: Tensor, converged: Tensor, wanted: Tensor) -> bool:
        """Whether the wanted pairs have converged and no candidate may still take the place of one.

        Arguments are those of `rivals`.
        """
        return bool(converged[wanted].all()) and not self.rivals(values, errors, converged, wanted)

    def rivals(
        self, values: Tensor, errors: Tensor, converged: Tensor, wanted: Tensor
    ) -> list[tuple[int, int]]:
        """Indices of the candidates that may still take the place of a wanted one, each with 1 or −1.

        1 is for one at the upper end, −1 for one at the lower.

        There are none but for "LM": the first candidate at each end that is not wanted, unless it has
        converged, or lies below the least wanted magnitude by ten times its error. An end that holds all k
        has no rival: its next candidate lies further inside, as for "LA" and "SA".

        Args:
            values: Ritz values (b,) of the candidates.
            errors: An eigenvalue lies within this of each.
            converged: Which of them have.
            wanted: Indices of the wanted among them.
        """
        if self.which != "LM":
            return []
        least = values[wanted].abs().min()
        return [
            (rival, sign)
            for rival, sign in self._next(values, wanted)
            if not converged[rival] and not sign * values[rival] + _MARGIN * errors[rival] < least
        ]

    def _next(self, values: Tensor, wanted: Tensor) -> list[tuple[int, int]]:
        descending = values.argsort(descending=True).tolist()
        inside = set(wanted.tolist())
        found = []
        for order, sign in ((descending, 1), (descending[::-1], -1)):
            first = next((place for place, index in enumerate(order) if index not in inside), None)
            if first is not None and first < self.k:
                found.append((order[first], sign))
        return found
