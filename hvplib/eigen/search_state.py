"""What a search for eigenpairs knows between two steps: to be shown, put away and taken up again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hvplib.eigen.certainty import Certainty
from hvplib.eigen.locked import Locked
from hvplib.eigen.missed import BlockEnd, End, described, remade
from hvplib.eigen.neighbours import Neighbours
from hvplib.eigen.products import Products
from hvplib.eigen.start import Start
from hvplib.eigen.task import Task
from hvplib.krylov.lanczos import Factorization
from hvplib.results.status import Progress, Status

__all__ = ["SearchState"]


class SearchState:
    """A search between two steps.

    Numbers are in units of the products (`Products.unit`).

    Args:
        task: What is searched for.
        factorization: Lanczos factorisation, just started from a random block.
        products: X ↦ A X.
        random: k ↦ a block (n, k) of independent normal numbers.
        drawn: Whether the start was drawn by `random`: only then do the probabilities hold for it.

    Attributes:
        status: How it ended; None as long as it has not.
        locked: The pairs found so far.
        certainty: How sure it is that none is missing.
        history: Rows (num_matvecs, converged pairs, largest residual / tolerance).
        num_iter: Steps made.
    """

    def __init__(
        self,
        task: Task,
        factorization: Factorization,
        products: Products,
        random: Callable[[int], Tensor],
        *,
        drawn: bool,
    ) -> None:
        self.task = task
        self.factorization = factorization
        self.products = products
        self.random = random
        self.status: Status | None = None
        self.locked = Locked(task, factorization, products)
        self.certainty = Certainty()
        self.history: list[list[float]] = []
        self.num_iter = 0
        self._drawn = drawn
        self._phase: Literal["iteration", "missed members"] = "iteration"
        self._start = Start(factorization, task.signs)
        self._first: Sequence[End | BlockEnd] = []  # what the first start has shown
        self._due = 0  # steps until the small problem is solved again
        self._strictness = 1.0  # of the estimates, beside the tolerance
        self._confirmations = 0
        self._neighbours = Neighbours.none()  # deflated too, as long as nothing was missed
        self._found = False  # whether this second start has brought something
        self._awaiting = False  # whether the pairs have converged, and another may yet take the place of one
        self._values = torch.full((task.k,), math.nan, dtype=torch.float64)  # as last looked at
        self._norms = self._values

    # What there is to show at any time.

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The best so far: values (j,), vectors (n, j), residual norms (j,), j ≤ k."""
        F, locked = self.factorization, self.locked
        if F.locked:
            best = locked.wanted()
            return locked.values[best], locked.vectors(best), locked.residual_norms[best]
        if not F.active:
            none = torch.zeros(0, dtype=torch.float64)
            return none, F.basis[:0], none
        ritz = F.ritz()
        wanted = self.task.wanted(ritz.values)
        return ritz.values[wanted], F.combine(ritz.vectors[:, wanted]), ritz.residual_norms[wanted]

    @property
    def asymmetry(self) -> float:
        """Largest difference between ⟨x, A y⟩ and ⟨A x, y⟩ met, relative to ‖A‖."""
        F = self.factorization
        return F.asymmetry / F.norm if F.norm else 0.0

    def progress(self) -> Progress:
        """What a callback is told."""
        unit = self.products.unit or 1.0
        return Progress(self.num_iter, self.products.total, self._norms * unit, self._values * unit)

    @property
    def spent(self) -> int:
        """Products made, but for those that show whether a saved search belongs to this operator."""
        return self.products.total - self.products.by_purpose.get("resume", 0)

    @property
    def exhausted(self) -> bool:
        """Whether another step, and to confirm what there is, would take more products than are allowed."""
        reserved = 0 if self.locked.confirmed else self.task.k
        return self.spent + self.factorization.width + reserved > self.task.max_matvecs

    # A search can be put away and taken up again.

    _PLAIN = ("num_iter", "_drawn", "_phase", "_due", "_strictness", "_confirmations", "_found", "_awaiting")

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on bit for bit, but for the generator's state."""
        return {
            **{name: getattr(self, name) for name in self._PLAIN},
            "shown": [self._values, self._norms],
            "history": [list(row) for row in self.history],
            "first": [described(end) for end in self._first],
            "certainty": self.certainty.state(),
            "locked": self.locked.state(),
            "neighbours": self._neighbours.state(),
            "start": self._start.state(),
            "factorization": self.factorization.state(),
            "unit": self.products.unit,
            "by_purpose": dict(self.products.by_purpose),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Become the search whose `state` this is."""
        for name in self._PLAIN:
            setattr(self, name, state[name])
        self._values, self._norms = state["shown"]
        self.history = [list(row) for row in state["history"]]
        self._first = [remade(end) for end in state["first"]]
        self.certainty = Certainty(*state["certainty"])
        self.locked.load(state["locked"])
        self._neighbours = Neighbours(*state["neighbours"])
        self._start.load(state["start"])
        self.factorization.load(state["factorization"])
        self.products.unit, self.products.by_purpose = state["unit"], dict(state["by_purpose"])
