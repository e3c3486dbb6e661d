"""The Lanczos factorisation as a value: start, expand, restart, lock, save, resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hvplib.krylov.basis import Basis
from hvplib.krylov.columns import checked
from hvplib.krylov.host import to_device
from hvplib.krylov.inner import EUCLIDEAN, Inner
from hvplib.krylov.lanczos_shape import Shape
from hvplib.krylov.orthogonal import (
    ROUNDINGS,
    elsewhere,
    factored,
    orthonormalize_beside,
    project_out,
    take_out,
)
from hvplib.krylov.ritz import Ritz

__all__ = ["Factorization"]

Matmat = Callable[[Tensor], Tensor]
Random = Callable[[int], Tensor]

_TINY = torch.finfo(torch.float64).tiny


class Factorization:
    """A Q = Q T + N C, for a symmetric A: QᵀQ = I, Qᵀ N = 0, NᵀN = I, T = Qᵀ A Q.

    N is the next block: what a product with the last columns brought in that is new. `expand` multiplies it,
    takes it into Q and leaves another. `restart` shrinks Q to some of its Ritz vectors and goes on from there
    (thick restart, Wu and Simon 2000, 10.1137/S0895479898334605). `lock` sets columns aside as X: from then
    on the same holds of the deflated operator (I − X Xᵀ) A (I − X Xᵀ) and the other columns, and `renew`
    begins them afresh from new vectors.

    Every new vector is made orthogonal to all columns twice. So what the small matrix says, residual norms
    included, holds to the precision of the products, and no eigenvalue appears twice (Paige 1972 on what
    happens otherwise, 10.1093/imamat/10.3.373).

    All that is not a column is kept in float64 on the CPU. An exception in a product leaves the factorisation
    as it was before the step.

    Args:
        start: Block (n, b) to start from.
        capacity: Active columns that Q may have.
        lockable: Columns that may be locked beside them.
        size: The dimension of the space: n, or what the n's of all processes add up to.
        inner: Inner product.
        dtype: Of the stored basis; the vectors' by default.
        device: Of the stored basis; the vectors' by default.

    Attributes:
        T: QᵀAQ, of which the first `count` rows and columns are in use.
        num_matvecs: Products made.
        num_steps: Steps since the last `renew`.
        norm: Largest length of a product with a unit vector so far: ‖A‖ from below.
        asymmetry: Largest difference between ⟨q_i, A q_j⟩ and ⟨A q_i, q_j⟩ so far.
    """

    def __init__(
        self,
        start: Tensor,
        *,
        capacity: int,
        size: int,
        lockable: int = 0,
        inner: Inner = EUCLIDEAN,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.inner = inner
        self.size = size
        self.capacity = min(capacity, size)
        columns = min(self.capacity + lockable, size)
        self.basis = Basis(columns + start.shape[1], start, dtype=dtype, device=device)
        self.eps = max(torch.finfo(start.dtype).eps, torch.finfo(self.basis.rows.dtype).eps)
        self.T = torch.zeros(self.basis.capacity, self.basis.capacity, dtype=torch.float64)
        self.num_matvecs = 0
        self.num_steps = 0
        self.norm = 0.0
        self.asymmetry = 0.0
        self._shape = Shape(0, 0, 0, torch.zeros(0, 0, dtype=torch.float64), 0, 0.0)
        self.renew(start)

    # What there is.

    @property
    def locked(self) -> int:
        """Columns set aside."""
        return self._shape.locked

    @property
    def count(self) -> int:
        """Columns of Q, the locked ones included."""
        return self._shape.count

    @property
    def active(self) -> int:
        """Columns of Q that are not locked."""
        return self.count - self.locked

    @property
    def width(self) -> int:
        """Columns of the next block. 0: Q spans the whole space, and its Ritz pairs are eigenpairs."""
        return self._shape.width

    @property
    def full(self) -> bool:
        """Whether there is no room to take in the next block and store the one after it."""
        after = self.count + self.width
        following = min(self.width, self.size - after)
        return self.active + self.width > self.capacity or after + following > self.basis.capacity

    @property
    def room(self) -> int:
        """Active columns that there is room for beside those that are locked."""
        return min(self.capacity, self.basis.capacity - self.locked - self.width)

    @property
    def log_scale(self) -> float:
        """Σ ln ‖N B‖ over the steps since the last `renew`, N B being what a product brought in that is new.

        From a single vector z, the next one is p(A) z / ‖z‖ for a p with leading coefficient exp(−log_scale).
        What is rounding counts as so much.
        """
        return self._shape.log_scale

    def ritz(self) -> Ritz:
        """Eigenpairs of the active part of T."""
        first, last = self.locked, self.count
        values, vectors = torch.linalg.eigh(self.T[first:last, first:last])
        deflated = torch.linalg.vector_norm(self._shape.coupling[:, first:] @ vectors, dim=0)
        if not first:
            return Ritz(values, vectors, deflated, deflated)
        cross = torch.linalg.vector_norm(self.cross(vectors), dim=0)
        return Ritz(values, vectors, torch.hypot(deflated, cross), deflated)

    def cross(self, coordinates: Tensor) -> Tensor:
        """XᵀA Q S for the locked columns X and coordinates (m, k) in the active ones: (locked, k)."""
        return self.T[: self.locked, self.locked : self.count] @ coordinates

    def combine(self, coordinates: Tensor) -> Tensor:
        """Q S for coordinates (m, k) in the active columns: a block (n, k)."""
        every = torch.zeros(self.count, coordinates.shape[1], dtype=torch.float64)
        every[self.locked :] = coordinates
        return self.basis.combine(every)

    # Steps.

    def renew(self, start: Tensor) -> None:
        """Begin the active part afresh from the span of `start` (n, b), orthogonal to the locked columns.

        The next block has fewer columns where the span has fewer dimensions; zero, or not finite, leaves
        none.
        """
        W = start.clone()
        project_out(W, self.basis, self.locked, self.inner)
        lengths = self.inner.columns(start, start).to("cpu", torch.float64).sqrt()
        W = W / lengths.to(W).clamp(min=torch.finfo(W.dtype).tiny)
        room = self.size - self.locked
        tiny = ROUNDINGS * self.eps
        if bool(torch.isfinite(lengths).all()):
            block = orthonormalize_beside(W, self.basis, self.locked, self.inner, tiny=tiny, eps=self.eps).Q
        else:
            block = W[:, :0]
        self._store(self.locked, block[:, : min(room, self.capacity)])
        self.num_steps = 0

    def expand(self, matmat: Matmat, random: Random) -> bool:
        """Multiply the next block, take it into Q, and leave the one after it.

        Args:
            matmat: X (n, k) ↦ A X, a new tensor.
            random: k ↦ a block (n, k) of independent normal numbers, drawn when the products bring nothing
                new: the columns so far span an invariant subspace, and the iteration goes on outside it.

        Returns:
            Whether the product was finite. If not, nothing has changed.
        """
        shape = self._shape
        before, after = shape.count, shape.count + shape.width
        X = self.basis[before:after]
        W = checked("matmat", matmat(X), X)
        self.num_matvecs += shape.width
        # In exact arithmetic W has parts only in the columns that the next block is coupled with, and these
        # parts are known; what is new is its part in the next block.
        known = shape.coupling[:, shape.reach :].mT
        inside = self.basis.coefficients(W, before, after, self.inner)
        self.basis.subtract(W, torch.cat([to_device(known, inside), inside]), shape.reach)
        rest = take_out(W, self.basis, after, self.inner)
        block, B, (inside, rest) = factored(W, [inside, rest], self.inner)
        if not math.isfinite(float(B.sum())):  # nor is then any length
            return False
        if not float(torch.linalg.vector_norm(rest)) <= float(torch.linalg.vector_norm(B)) / 2:
            # There was more of the columns than the recurrence knows: one pass was not enough for them.
            block, B, (again,) = factored(W, [take_out(W, self.basis, after, self.inner)], self.inner)
            rest = rest + again
        # What was forgotten in locking would be taken for asymmetry.
        unknown = float(rest[:before].abs().max()) if before and not shape.locked else 0.0
        H = rest
        H[shape.reach : before] += known
        H[before:] += inside
        norm = max(self.norm, _spectral_norm(torch.cat([H, B])))
        tiny = ROUNDINGS * self.eps * norm
        if block is None or float(B.diagonal().min()) <= tiny:
            block, B = orthonormalize_beside(W, self.basis, after, self.inner, tiny=tiny, eps=self.eps)
        elif shape.width == 1:
            block = W.div_(float(B))
        room = min(self.size - after, self.basis.capacity - after)
        if block.shape[1] == 0 and self.size > after:
            block = elsewhere(random(1), self.basis, after, self.inner)
            B = torch.zeros(1, shape.width, dtype=torch.float64)
        elif block.shape[1] > self.size - after:  # what is left over in the last dimensions is rounding
            block, B = block[:, :room], B[:room]
        # From here on nothing is computed, so that an interrupt finds the old state or the new one.
        coupling = torch.zeros(block.shape[1], after, dtype=torch.float64)
        coupling[:, before:] = B
        self.asymmetry = max(self.asymmetry, unknown)
        self.T[:after, before:after] = H
        self.T[before:after, :before] = H[:before].mT
        if shape.width > 1:
            self.T[before:after, before:after] = (H[before:] + H[before:].mT) / 2
        self.basis.put(after, block)
        self.norm = norm
        self.num_steps += 1
        log_scale = shape.log_scale + math.log(max(float(torch.linalg.vector_norm(B)), tiny, _TINY))
        self._shape = Shape(shape.locked, after, block.shape[1], coupling, before, log_scale)
        return True

    def restart(self, coordinates: Tensor) -> None:
        """Shrink the active part to the Ritz vectors with these coordinates (m, p), as `ritz` gives them."""
        shape = self._shape
        first, kept = shape.locked, coordinates.shape[1]
        last = first + kept
        active = self.T[first : shape.count, first : shape.count]
        cross = self.T[:first, first : shape.count] @ coordinates
        inside = coordinates.mT @ active @ coordinates
        coupling = torch.zeros(shape.width, last, dtype=torch.float64)
        coupling[:, first:] = shape.coupling[:, first:] @ coordinates
        following = self.basis[shape.count : shape.count + shape.width]
        if last + shape.width > shape.count:  # where it moves to overlaps with where it is
            following = following.clone()
        self.basis.rotate(coordinates, first=first)
        self.basis.put(last, following)
        self.T[:first, first:last] = cross
        self.T[first:last, :first] = cross.mT
        self.T[first:last, first:last] = (inside + inside.mT) / 2
        self._shape = Shape(first, last, shape.width, coupling, first, shape.log_scale)

    def lock(self, count: int) -> None:
        """Set the first `count` active columns aside.

        What the next block has of their products is forgotten: let it be small.
        """
        shape = self._shape
        self._shape = replace(shape, locked=shape.locked + count)

    def turn_locked(self, rotation: Tensor) -> None:
        """X ← X G for an orthogonal G (locked, locked)."""
        shape, (first, last) = self._shape, (self.locked, self.count)
        coupling = torch.cat([shape.coupling[:, :first] @ rotation, shape.coupling[:, first:]], dim=1)
        self.basis.rotate(rotation)
        inside = rotation.mT @ self.T[:first, :first] @ rotation
        self.T[:first, :first] = (inside + inside.mT) / 2
        self.T[:first, first:last] = rotation.mT @ self.T[:first, first:last]
        self.T[first:last, :first] = self.T[:first, first:last].mT
        self._shape = replace(shape, coupling=coupling)

    def keep_locked(self, columns: list[int]) -> None:
        """Keep only these of the locked columns, in this order.

        What the active columns have to do with those that go is forgotten, as in `lock`.
        """
        shape = self._shape
        gone = shape.locked - len(columns)
        chosen = torch.tensor([*columns, *range(shape.locked, shape.count)], dtype=torch.long)
        moved = torch.tensor([*chosen.tolist(), *range(shape.count, shape.count + shape.width)])
        selection = torch.eye(shape.count + shape.width, dtype=torch.float64)[:, moved]
        T = self.T[chosen][:, chosen]
        self.basis.rotate(selection)
        self.T[: len(chosen), : len(chosen)] = T
        coupling, kept = shape.coupling[:, chosen], len(columns)
        self._shape = replace(shape, locked=kept, count=shape.count - gone, coupling=coupling, reach=kept)

    # A value can be put away and taken up again.

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on bit for bit."""
        shape = self._shape
        return {
            "rows": self.basis.rows[: shape.count + shape.width].clone(),
            "T": self.T[: shape.count, : shape.count].clone(),
            "locked": shape.locked,
            "width": shape.width,
            "coupling": shape.coupling.clone(),
            "reach": shape.reach,
            "log_scale": shape.log_scale,
            "num_matvecs": self.num_matvecs,
            "num_steps": self.num_steps,
            "norm": self.norm,
            "asymmetry": self.asymmetry,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Become the factorisation whose `state` this is; capacity, size and inner product stay."""
        count = state["T"].shape[0]
        columns, length = state["rows"].shape
        if length != self.basis.rows.shape[1] or columns > self.basis.capacity:
            raise ValueError(
                f"state holds {columns} columns of length {length}, but there is room for "
                f"{self.basis.capacity} of length {self.basis.rows.shape[1]}"
            )
        self.basis.rows[:columns] = state["rows"]
        self.T[:count, :count] = state["T"]
        self.num_matvecs, self.num_steps = state["num_matvecs"], state["num_steps"]
        self.norm, self.asymmetry = state["norm"], state["asymmetry"]
        rest = (state[name] for name in ("width", "coupling", "reach", "log_scale"))
        self._shape = Shape(state["locked"], count, *rest)

    def defect(self, matmat: Matmat) -> float:
        """‖A q − Q T e − N C e‖ / ‖A‖ for a column q of Q: whether this factorisation is of this A.

        It is the last active column, or the first one where all are locked.
        """
        shape = self._shape
        column = shape.count - 1 if self.active else 0
        W = matmat(self.basis[column : column + 1]).clone()
        self.num_matvecs += 1
        share = torch.cat([self.T[: shape.count, column], shape.coupling[:, column]]).unsqueeze(1)
        self.basis.subtract(W, share.to(W))
        return float(self.inner.columns(W, W).sqrt()) / max(self.norm, torch.finfo(torch.float64).tiny)

    def _store(self, count: int, block: Tensor) -> None:
        self.basis.put(count, block)
        coupling = torch.zeros(block.shape[1], count, dtype=torch.float64)
        self._shape = Shape(self.locked, count, block.shape[1], coupling, count, 0.0)


def _spectral_norm(C: Tensor) -> float:
    """The longest of the combinations of columns with a unit vector."""
    return float(torch.linalg.vector_norm(C) if C.shape[1] == 1 else torch.linalg.matrix_norm(C, 2))
