"""Two bases that belong together: steps V, and what the metric M makes of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hvplib.krylov.basis import Basis
from hvplib.krylov.columns import checked
from hvplib.krylov.inner import Inner

__all__ = ["PairedBasis"]

# Columns there is room for at first; the room is doubled as often as needed.
_ROOM = 8


class PairedBasis:
    """VᵀU = I with U = M V and V = P U: an M-orthonormal basis of steps, and its dual for gradients.

    M = P⁻¹ is never multiplied with. Without P both are one.

    Args:
        like: A block (n, k): vectors have its n, dtype and device.
        precondition: W ↦ P W, symmetric positive definite; None for the identity.
        inner: Sums over the rows.
    """

    def __init__(self, like: Tensor, precondition: Callable[[Tensor], Tensor] | None, inner: Inner) -> None:
        self._precondition = precondition
        self._inner = inner
        self._steps = Basis(_ROOM, like)
        self._duals = self._steps if precondition is None else Basis(_ROOM, like)

    def preconditioned(self, w: Tensor) -> Tensor:
        """P w, w itself without a preconditioner."""
        if self._precondition is None:
            return w
        return checked("precondition", self._precondition(w), w)

    def project_out(self, w: Tensor, first: int, last: int) -> Tensor:
        """w ← w − U Vᵀw, in place, for the columns first ... last; returns Vᵀw (last − first, 1)."""
        coefficients = self._steps.coefficients(w, first, last, self._inner)
        self._duals.subtract(w, coefficients, first)
        return coefficients

    def put(self, index: int, step: Tensor, dual: Tensor) -> None:
        """Store v (n, 1) and u = M v as columns, after `index` others."""
        if index == self._steps.capacity:
            steps = _grown(self._steps)
            self._duals = steps if self._precondition is None else _grown(self._duals)
            self._steps = steps
        self._steps.put(index, step)
        if self._precondition is not None:
            self._duals.put(index, dual)

    def duals(self, indices: list[int]) -> Tensor:
        """These columns of U: a new block (n, k)."""
        rows = self._duals.rows
        return rows.index_select(0, torch.tensor(indices, device=rows.device)).mT

    def combine(self, coordinates: Tensor) -> Tensor:
        """V C for C (m, k), of the first m columns: a block (n, k)."""
        return self._steps.combine(coordinates)


def _grown(basis: Basis) -> Basis:
    """With room for twice as many columns."""
    old = basis[0 : basis.capacity]
    grown = Basis(2 * basis.capacity, old)
    grown.put(0, old)
    return grown
