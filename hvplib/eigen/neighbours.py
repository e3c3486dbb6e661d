"""Unwanted Ritz pairs next to the wanted ones: deflated too, they make a second start see more with less."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hvplib.eigen.task import Mark

__all__ = ["Neighbours", "next_to"]

# What they may take away from the distance that a second start has to resolve.
_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Ritz pairs A Y = Y diag(θ) + q ρᵀ: orthonormal Y, and a unit vector q orthogonal to its columns.

    They need not have converged. A second start beside the pairs found, X, and Y too runs with the
    compression B of A to what is orthogonal to both. What B is without, A is nearly without.

    Attributes:
        values: θ (e,).
        residual_norms: |ρ| (e,).
    """

    values: Tensor
    residual_norms: Tensor

    @staticmethod
    def none() -> Neighbours:
        """There are none."""
        empty = torch.zeros(0, dtype=torch.float64)
        return Neighbours(empty, empty)

    def __len__(self) -> int:
        return self.values.numel()

    def lowered(self, mark: Mark) -> Mark:
        """Beyond which value of B no eigenvalue may lie so that there is none of A from `mark.next` on.

        Let A have an eigenvalue beyond those that X holds, at μ = mark.next or farther out (of the lower end,
        everything is negated). Then the eigenvectors from μ on span a space in which a unit vector u is
        orthogonal to those; A − μ is not negative in it. The part of y_i in it is at most r_i / d_i for
        d_i = μ − θ_i, since ‖(A − θ_i) y_i‖ = r_i. Take c = Yᵀu away from u: for w = u − Y c,

            ⟨w, (A − μ) w⟩ = ⟨u, (A − μ) u⟩ + Σ d_i c_i² − 2 ⟨u, q⟩ ρᵀc ≥ −Σ r_i² / d_i,

        and ‖w‖² ≥ 1 − Σ (r_i / d_i)². So B has an eigenvalue ≥ μ − Σ (r_i² / d_i) / (1 − Σ (r_i / d_i)²):
        the square of a residual is taken away, over a distance.
        """
        distances = mark.next - mark.sign * self.values
        if not len(self) or not math.isfinite(mark.next):
            return mark
        if not float(distances.min()) > 0:
            return mark._replace(next=-math.inf)
        ratios = self.residual_norms / distances
        left = 1 - float(ratios.square().sum())
        lost = float((ratios * self.residual_norms).sum()) / left if left > 0 else math.inf
        return mark._replace(next=mark.next - lost)

    def reach(self, sign: int, bound: float) -> float:
        """A bound on the eigenvalues of [Y, ...]ᵀA [Y, ...], where those of B are at most `bound`.

        x is one if x > θ_i, x > bound, and Σ r_i² / (x − θ_i) ≤ x − bound: then x − B has a positive definite
        Schur complement. Found by bisection. (Of the lower end, everything is negated.)
        """
        if not len(self):
            return bound
        values, squares = sign * self.values, self.residual_norms.square()
        low = max(float(values.max()), bound)
        high = low + float(squares.sum().sqrt())  # by Weyl
        for _ in range(50):
            middle = (low + high) / 2
            if float((squares / (middle - values)).sum()) <= middle - bound:
                high = middle
            else:
                low = middle
        return high

    def state(self) -> list[Any]:
        """The arguments that make it again."""
        return [self.values, self.residual_norms]


def next_to(
    values: Tensor, residual_norms: Tensor, wanted: Tensor, marks: Sequence[Mark], most: int
) -> tuple[Tensor, Neighbours]:
    """Which of the Ritz pairs to deflate beside the wanted: the outermost at the ends where it is closest.

    Args:
        values: Ritz values (m,).
        residual_norms: Theirs (m,).
        wanted: Indices of the wanted ones.
        marks: Where a missed eigenvalue would matter.
        most: No more than these.

    Returns:
        Indices (e,), and the pairs.
    """
    marks = [mark for mark in marks if math.isfinite(mark.next)]
    rest = sorted(set(range(values.numel())) - set(wanted.tolist()), key=lambda i: float(values[i]))
    chosen: list[int] = []
    pairs = Neighbours.none()
    while marks and rest and len(chosen) < most:
        mark = min(marks, key=lambda mark: _distance(mark, values, rest))
        candidate = rest[-1] if mark.sign > 0 else rest[0]
        more = torch.tensor([*chosen, candidate])
        larger = Neighbours(values[more], residual_norms[more])
        if not all(_tells_apart(larger, mark) for mark in marks):
            break
        pairs = larger
        chosen.append(candidate)
        rest.remove(candidate)
    return torch.tensor(chosen, dtype=torch.long), pairs


def _tells_apart(pairs: Neighbours, mark: Mark) -> bool:
    """Whether the lowered mark is still far from copies of the last wanted value, which change nothing."""
    return mark.next - pairs.lowered(mark).next <= _SHARE * (mark.next - mark.value)


def _distance(mark: Mark, values: Tensor, rest: list[int]) -> float:
    """From the mark to the outermost of these values at its end."""
    outermost = float(values[rest[-1]]) if mark.sign > 0 else -float(values[rest[0]])
    return mark.next - outermost
