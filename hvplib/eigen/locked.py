"""The pairs found so far: columns set aside, with what is known of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hvplib.eigen.decoupling import decoupling
from hvplib.eigen.products import Products
from hvplib.eigen.task import Task
from hvplib.krylov.lanczos import Factorization
from hvplib.krylov.ritz import Ritz

__all__ = ["Locked"]

# Bytes of the vectors that are recomputed at a time.
_AT_ONCE = 2**26


class Examined(NamedTuple):
    """Vectors as they are stored, and what products made for it say of them.

    Attributes:
        vectors: X (n, j).
        values: Rayleigh quotients (j,).
        residual_norms: ‖A x − θ x‖ (j,).
    """

    vectors: Tensor
    values: Tensor
    residual_norms: Tensor


class Locked:
    """A X ≈ X diag(θ) for the locked columns X of a factorisation.

    Args:
        task: What is searched for.
        factorization: Whose columns they are.
        products: X ↦ A X.

    Attributes:
        values: θ (l,).
        residual_norms: ‖A x − θ x‖ (l,).
        confirmed: Whether these are of products made for them.
    """

    def __init__(self, task: Task, factorization: Factorization, products: Products) -> None:
        self._task, self._factorization, self._products = task, factorization, products
        self.values = self.residual_norms = torch.zeros(0, dtype=torch.float64)
        self.confirmed = False

    def tolerances(self, values: Tensor) -> Tensor:
        """What residual norms may be, by what is known of ‖A‖."""
        return self._task.tolerances(values, self._factorization.norm)

    def wanted(self) -> Tensor:
        """Indices of the wanted among the locked pairs, the best first."""
        return self._task.wanted(self.values)

    def vectors(self, chosen: Tensor) -> Tensor:
        """These of the locked columns (n, j)."""
        F = self._factorization
        return F.basis[: F.locked][:, chosen.to(F.basis.device)]

    def examined(self, ritz: Ritz, chosen: Tensor) -> Examined:
        """These Ritz vectors, rounded to the digits in which they will be stored, and recomputed."""
        F = self._factorization
        return self._examined(F.combine(ritz.vectors[:, chosen]))

    def _examined(self, X: Tensor) -> Examined:
        """X is normalised in place; long columns are multiplied a few at a time, to save memory."""
        F = self._factorization
        width = max(1, _AT_ONCE // (X.shape[0] * X.element_size()))
        parts = [self._examine(part) for part in torch.split(X, width, dim=1)]
        small = torch.cat(parts, dim=1).to("cpu", torch.float64)
        lengths = torch.hypot(small[0], small[1])
        F.norm = max(F.norm, float(lengths.nan_to_num(nan=0.0, posinf=0.0).max()))
        return Examined(X, small[0], small[1])

    def _examine(self, X: Tensor) -> Tensor:
        """Rayleigh quotients and residual norms (2, j) of X (n, j), which is normalised in place."""
        F = self._factorization
        # Thousands of restarts leave lengths that differ from one by more than a rounding.
        X.copy_((X / F.inner.columns(X, X).sqrt()).to(F.basis.rows.dtype))
        AX = self._products.made_for("confirmation")(X)
        quotients = F.inner.columns(X, AX) / F.inner.columns(X, X)
        R = AX - X * quotients
        return torch.stack([quotients, F.inner.columns(R, R).sqrt()])

    def lock(self, ritz: Ritz, chosen: Tensor, examined: Examined, beside: Tensor) -> None:
        """Lock these Ritz pairs, the first to be locked, as they were examined.

        Others that are named `beside` them stay active; all the rest is dropped.
        """
        F = self._factorization
        F.restart(ritz.vectors[:, torch.cat([chosen, beside])])
        F.basis.put(0, examined.vectors)
        F.lock(len(chosen))
        self.values, self.residual_norms, self.confirmed = examined.values, examined.residual_norms, True

    def take_in(self, ritz: Ritz, found: Tensor) -> None:
        """Lock these Ritz pairs too, by Rayleigh–Ritz on them and what is locked already.

        The locked pairs are exact to their own tolerance only, which beside a value near zero may be far too
        coarse; as long as the new vectors were orthogonal to them, so was what these could be. What they
        push out of the wanted pairs stays locked for the rest of this run: the active columns are
        orthogonal to it, and what they have to do with it is known only as long as it is there.
        """
        F = self._factorization
        norms = torch.cat([self.residual_norms, ritz.deflated_norms[found]])
        rest = torch.ones(ritz.values.numel(), dtype=torch.bool)
        rest[found] = False
        F.restart(torch.cat([ritz.vectors[:, found], ritz.vectors[:, rest]], dim=1))
        F.lock(len(found))
        before = F.T[: F.locked, : F.locked]
        G = decoupling(before, self.tolerances(before.diagonal()))
        F.turn_locked(G)
        T = F.T[: F.locked, : F.locked]
        self.values = T.diagonal().clone()
        left = torch.linalg.vector_norm(T - T.diagonal().diag(), dim=0)
        self.residual_norms, self.confirmed = torch.hypot(norms @ G.abs(), left), False

    def sort(self) -> None:
        """Bring the pairs into order, and drop those that others have pushed out."""
        best = self.wanted()
        if best.tolist() != list(range(self._factorization.locked)):
            self._factorization.keep_locked(best.tolist())
            self.values, self.residual_norms = self.values[best], self.residual_norms[best]

    def confirm(self) -> float:
        """The largest residual norm relative to its tolerance, recomputed if it was not."""
        F = self._factorization
        self.sort()
        if not self.confirmed:
            X, self.values, self.residual_norms = self._examined(F.basis[: F.locked].mT.clone().mT)
            F.basis.put(0, X)
            self.confirmed = True
            self.sort()
        return float((self.residual_norms / self.tolerances(self.values)).max())

    def state(self) -> dict[str, Any]:
        """All that `load` needs, but for the columns."""
        return {"values": self.values, "residual_norms": self.residual_norms, "confirmed": self.confirmed}

    def load(self, state: dict[str, Any]) -> None:
        """Become those whose `state` this is."""
        self.values, self.residual_norms = state["values"], state["residual_norms"]
        self.confirmed = state["confirmed"]
