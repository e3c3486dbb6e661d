"""What is known of the columns of b while an iteration runs: results so far, statuses, history."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hvplib.krylov.inner import Inner
from hvplib.krylov.outcome import LinearOutcome
from hvplib.results.status import Progress, Status

__all__ = ["Record"]


class Record:
    """The outcome of k columns in the making. Columns are named by their place in b, (j,) on the CPU.

    Args:
        x: First iterates (n, k); overwritten.
        residual_norms: Of them (k,), float64, on the CPU.
        num_matvecs: Products spent so far.
        inner: Sums over the rows.
    """

    def __init__(self, x: Tensor, residual_norms: Tensor, num_matvecs: int, inner: Inner) -> None:
        self.num_iter = 0
        self.num_matvecs = num_matvecs
        self._x = x
        self._norms: list[float] = residual_norms.tolist()  # a list: it changes at every step
        self._history = [list(self._norms)]
        self._statuses: list[Status | None] = [None] * x.shape[1]
        self._inner = inner
        self._directions: Tensor | None = None
        self._rayleigh = torch.full_like(residual_norms, torch.nan, dtype=torch.float64)
        self._decrease: Tensor | None = None
        self._lengths: Tensor | None = None

    def step(self, columns: Sequence[int], residual_norms: Sequence[float]) -> None:
        """One more step, of these columns."""
        self.num_iter += 1
        for column, norm in zip(columns, residual_norms, strict=True):
            self._norms[column] = norm
        self._history.append(list(self._norms))

    def revise(self, columns: Tensor, residual_norms: Tensor) -> None:
        """These columns go back to an earlier iterate, with these residual norms."""
        for column, norm in zip(columns.tolist(), residual_norms.tolist(), strict=True):
            self._norms[column] = norm

    def progress(self) -> Progress:
        """For a callback."""
        return Progress(self.num_iter, self.num_matvecs, _numbers(self._norms))

    def end(self, columns: Tensor, status: Status, correction: Tensor | None = None) -> None:
        """These columns have ended, at their first iterates plus `correction` (n, j)."""
        for column in columns.tolist():
            self._statuses[column] = status
        if correction is not None:
            index = columns.to(self._x.device)
            self._x.mT.index_add_(0, index, correction.mT)

    def without_direction(self, columns: Tensor) -> Tensor:
        """Which of these columns (j,) have met no direction of non-positive curvature."""
        return self._rayleigh[columns].isnan()

    def meet(self, columns: Tensor, directions: Tensor, rayleigh: Tensor) -> None:
        """These columns met directions p (n, j) with pᵀA p (j,) ≤ 0."""
        if self._directions is None:
            self._directions = torch.zeros_like(self._x)
        self._directions.mT.index_copy_(0, columns.to(directions.device), directions.mT)
        self._rayleigh[columns] = rayleigh

    def gain(self, columns: Tensor, decrease: float, length: float) -> None:
        """The quadratic model is lower by this at these columns' iterates than at zero; and ‖x‖_M."""
        if self._decrease is None or self._lengths is None:
            self._decrease, self._lengths = torch.zeros_like(self._rayleigh), torch.zeros_like(self._rayleigh)
        self._decrease[columns], self._lengths[columns] = decrease, length

    def outcome(self) -> LinearOutcome:
        """When every column has ended."""
        return LinearOutcome(
            x=self._x,
            statuses=tuple(status for status in self._statuses if status is not None),
            residual_norms=_numbers(self._norms),
            num_iter=self.num_iter,
            num_matvecs=self.num_matvecs,
            history=_numbers(self._history),
            direction=self._directions,
            curvature=self._curvature(),
            decrease=self._decrease,
            lengths=self._lengths,
        )

    def _curvature(self) -> Tensor | None:
        if self._directions is None:
            return None
        squares = self._inner.columns(self._directions, self._directions)
        return self._rayleigh / squares.cpu().double()


def _numbers(values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
