"""The loop that MINRES and MINRES-QLP share: one Lanczos process, one reduction of T, one set of stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hvplib.krylov.columns import checked, column_norms, power_of_two, zero_block
from hvplib.krylov.inner import Inner
from hvplib.krylov.lanczos_process import Block, LanczosProcess, copy_columns, take_columns
from hvplib.krylov.minimal_residual_column import Column, Start, StepSums, Trial
from hvplib.krylov.outcome import LinearOutcome
from hvplib.krylov.record import Record
from hvplib.krylov.tridiagonal_qlp import TridiagonalQLP
from hvplib.results.status import Progress, Status

__all__ = ["Iterate", "MinimalResidual", "multipliers"]


class Iterate(Protocol):
    """x_k − x_0 as a combination of vectors, in each of the columns that are still active."""

    def take(self, index: Tensor) -> Iterate:
        """For the columns that `index` lists."""

    def step(self, v: Tensor, factors: Sequence[TridiagonalQLP]) -> None:
        """Go on to x_k, with v_k (n, j) and the factors of T_k."""

    def solution(self, factors: Sequence[TridiagonalQLP]) -> Tensor:
        """x_k − x_0 (n, j), with the factors of T_k."""

    def shortest(
        self, v: Tensor, factors: Sequence[TridiagonalQLP], residual: Tensor, null: Tensor
    ) -> Tensor:
        """The shortest x − x_0 (n, j) with A x = A x_{k-1}, when A P r_{k-1} has turned out to be zero.

        Called instead of step k, with v_k and the factors of T_k; `residual` is r_{k-1}, `null` P r_{k-1}.
        """


def multipliers(rows: Sequence[Sequence[float]], like: Tensor) -> tuple[Tensor, ...]:
    """Multipliers (j,) of the columns of `like`, from a row for each column: one copy to its device."""
    return torch.tensor(rows, dtype=torch.float64).to(device=like.device, dtype=like.dtype).unbind(1)


class MinimalResidual:
    """x_k = argmin ‖b − (A + σI) x‖_P over x_0 + span(P r_0, P A P r_0, ...), for each column by itself.

    The arguments, the stops and the result are those of `minres`.

    Args:
        make: A method's iterate x_0 − x_0 = 0, like a block (n, k).
    """

    def __init__(
        self,
        make: Callable[[Tensor, Inner], Iterate],
        matmat: Block,
        b: Tensor,
        *,
        x0: Tensor | None,
        precondition: Block | None,
        inner: Inner,
        shift: float,
        rtol: float,
        atol: float,
        max_iter: int,
        callback: Callable[[Progress], object] | None,
    ) -> None:
        _check(b, x0, rtol, atol, max_iter)
        self._matmat = matmat
        self._precondition = precondition
        self._inner = inner
        self._shift = shift
        self._max_iter = max_iter
        self._callback = callback
        self._begin(b.detach(), None if x0 is None else x0.detach(), rtol, atol)
        self._iterate = make(self._r, inner)
        self._end([column.ends_at_start() for column in self._columns], [])
        self._normalise()

    def run(self) -> LinearOutcome:
        """Step until every column has ended."""
        rest = Status.MAX_ITER
        while self._columns and self._record.num_iter < self._max_iter:
            self._step()
            if self._callback is not None and self._callback(self._record.progress()):
                rest = Status.STOPPED
                break
        self._end([rest] * len(self._columns), [])
        return self._record.outcome()

    def _begin(self, b: Tensor, x0: Tensor | None, rtol: float, atol: float) -> None:
        """r_0, scaled, and what is known of each column before the first step."""
        b_norms = column_norms(self._inner, b)
        x, r, num_matvecs = self._start(b, x0, b_norms)
        r_norms = b_norms if x0 is None else column_norms(self._inner, r)
        # In the norm of a preconditioner's inverse ‖x_0‖ is not known.
        known = x0 is not None and self._precondition is None
        x_norms = column_norms(self._inner, x) if known else [0.0] * len(b_norms)
        scales = [power_of_two(norm, b.dtype) for norm in r_norms]
        # Three of r_0: one that the process overwrites, one that the recurrence of the residual does, and one
        # that may be needed after the second product.
        self._first = r * _tensor(scales).to(r)
        self._r = copy_columns(self._first)
        self._process = LanczosProcess(
            self._matmat,
            copy_columns(self._first),
            shift=self._shift,
            precondition=self._precondition,
            inner=self._inner,
        )
        self._record = Record(x, _tensor(r_norms), num_matvecs, self._inner)
        targets = [max(rtol * norm, atol) for norm in b_norms]
        squares = self._process.beta_squared().tolist()
        starts = map(Start, r_norms, squares, x_norms, targets, scales)
        eps = torch.finfo(b.dtype).eps
        self._columns = [Column(place, start, eps) for place, start in enumerate(starts)]

    def _start(self, b: Tensor, x0: Tensor | None, b_norms: list[float]) -> tuple[Tensor, Tensor, int]:
        """x_0, r_0 and the products spent."""
        if x0 is None:
            return zero_block(b), b, 0
        # b = 0 has the solution x = 0, wherever it is looked for.
        zero = torch.tensor([norm == 0 for norm in b_norms], device=b.device)
        x = copy_columns(torch.where(zero, 0, x0))
        return x, b - checked("matmat", self._matmat(x), x) - self._shift * x, b.shape[1]

    def _step(self) -> None:
        trials = self._rewind(self._multiply())
        self._meet_flat(trials)
        before = [column.ends_before(trial) for column, trial in zip(self._columns, trials, strict=True)]
        trials = self._end(before, trials)
        if self._columns:
            self._advance(trials)
        norms = [column.r_norm / column.b_scale for column in self._columns]
        self._record.step([column.place for column in self._columns], norms)
        after = [column.ends_after(trial) for column, trial in zip(self._columns, trials, strict=True)]
        self._end(after, trials)
        self._normalise()

    def _multiply(self) -> list[Trial]:
        """One product, and all sums that follow from it: the one synchronisation of a step."""
        alpha = self._process.expand()
        sums = self._sums(alpha)
        self._record.num_matvecs += len(self._columns)
        if self._record.num_iter == 0 and any(self._out_of_range(column.beta_squared) for column in sums):
            sums = self._sums(alpha * self._rescale([column.alpha for column in sums]))
        return [column.trial(found) for column, found in zip(self._columns, sums, strict=True)]

    def _sums(self, alpha: Tensor) -> list[StepSums]:
        y, r, columns = self._process.y, self._r, self._inner.columns
        rows = [alpha, self._process.beta_squared()]
        if self._precondition is not None:
            rows += [columns(r, r), columns(r, y), columns(y, y)]
        return [StepSums(*column) for column in torch.stack(rows).mT.tolist()]

    def _out_of_range(self, square: float) -> bool:
        info = torch.finfo(self._r.dtype)
        return abs(square) < info.tiny / info.eps or abs(square) == torch.inf

    def _rescale(self, alphas: list[float]) -> Tensor:
        """Scale A to a norm of about one where the squares of its products leave the range of the dtype."""
        norms = column_norms(self._inner, self._process.y)
        for column, norm, alpha in zip(self._columns, norms, alphas, strict=True):
            column.rescale(power_of_two(max(norm, abs(alpha)) if norm > 0 else 1.0, self._r.dtype))
        scale = _tensor([column.a_scale for column in self._columns]).to(self._r)
        self._process.rescale(scale)
        return scale

    def _rewind(self, trials: list[Trial]) -> list[Trial]:
        """End the columns whose first residual the second product shows to be a null vector, at x_0."""
        if self._record.num_iter != 1:
            return trials
        pairs = list(enumerate(zip(self._columns, trials, strict=True)))
        null = [index for index, (column, trial) in pairs if column.first_was_null(trial)]
        if null:
            places = self._places(null)
            self._meet(
                null, take_columns(self._first, places), [self._columns[i].first_rayleigh() for i in null]
            )
            self._record.end(places, Status.INCONSISTENT)
            self._record.revise(places, _tensor([self._columns[i].first_norm for i in null]))
            trials = self._keep([index for index, _ in pairs if index not in null], trials)
        self._first = self._first.new_empty(0)  # memory that is not needed any more
        return trials

    def _meet_flat(self, trials: list[Trial]) -> None:
        """Keep P r_{k-1} of the columns where r_{k-1}ᵀ A r_{k-1} ≤ 0, unless they have such a direction."""
        pairs = enumerate(zip(self._columns, trials, strict=True))
        flat = [index for index, (column, trial) in pairs if column.meets_flat(trial)]
        new = [index for index in flat if not self._columns[index].met]
        if new:
            r = take_columns(self._r, torch.tensor(new))
            self._meet(new, r, [self._columns[index].rayleigh(trials[index]) for index in new])

    def _meet(self, index: list[int], r: Tensor, rayleigh: list[float]) -> None:
        for column in (self._columns[i] for i in index):
            column.met = True
        self._record.meet(self._places(index), self._preconditioned(r), _tensor(rayleigh))

    def _advance(self, trials: list[Trial]) -> None:
        """Go on to x_k and r_k."""
        for column, trial in zip(self._columns, trials, strict=True):
            column.step(trial)
        by_r, by_y = multipliers([(trial.shrink, trial.along) for trial in trials], self._r)
        self._r.mul_(by_r).addcmul_(self._process.y, by_y)
        self._iterate.step(self._process.v, [trial.factors for trial in trials])

    def _normalise(self) -> None:
        first = self._record.num_iter == 0
        betas = [column.factors.phi if first else column.factors.beta for column in self._columns]
        self._process.normalise(_tensor(betas))

    def _end(self, statuses: Sequence[Status | None], trials: list[Trial]) -> list[Trial]:
        """End the columns that have a status, where they are; the trials of the others."""
        if not any(statuses):
            return trials
        for status in dict.fromkeys(status for status in statuses if status is not None):
            self._finish([index for index, other in enumerate(statuses) if other is status], status, trials)
        return self._keep([index for index, status in enumerate(statuses) if status is None], trials)

    def _finish(self, index: list[int], status: Status, trials: list[Trial]) -> None:
        rows = torch.tensor(index)
        columns = [self._columns[i] for i in index]
        iterate = self._iterate.take(rows)
        if status is Status.INCONSISTENT:
            r, v = take_columns(self._r, rows), take_columns(self._process.v, rows)
            factors = [trials[i].factors for i in index]
            correction = iterate.shortest(v, factors, r, self._preconditioned(r))
        else:
            correction = iterate.solution([column.factors for column in columns])
        (unscale,) = multipliers([(column.a_scale / column.b_scale,) for column in columns], correction)
        self._record.end(self._places(index), status, correction * unscale)

    def _keep(self, index: list[int], trials: list[Trial]) -> list[Trial]:
        """Go on with these of the active columns; their trials."""
        rows = torch.tensor(index, dtype=torch.long)
        self._columns = [self._columns[i] for i in index]
        self._process = self._process.take(rows)
        self._iterate = self._iterate.take(rows)
        self._r = take_columns(self._r, rows)
        return [trials[i] for i in index] if trials else trials

    def _places(self, index: Sequence[int]) -> Tensor:
        """Where these of the active columns stand in b."""
        return torch.tensor([self._columns[i].place for i in index], dtype=torch.long)

    def _preconditioned(self, r: Tensor) -> Tensor:
        if self._precondition is None:
            return r
        return checked("precondition", self._precondition(r), r)


def _tensor(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _check(b: Tensor, x0: Tensor | None, rtol: float, atol: float, max_iter: int) -> None:
    if b.dim() != 2 or b.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"b must be (n, k) of float32 or float64, got {tuple(b.shape)} of {b.dtype}; "
            "give a vector as b[:, None]"
        )
    if x0 is not None and (x0.shape, x0.dtype) != (b.shape, b.dtype):
        raise ValueError(
            f"x0 must be like b, {tuple(b.shape)} of {b.dtype}, got {tuple(x0.shape)} of {x0.dtype}"
        )
    if not (rtol >= 0 and atol >= 0 and max_iter >= 0):
        raise ValueError(
            f"rtol, atol and max_iter must not be negative, got rtol={rtol}, atol={atol}, max_iter={max_iter}"
        )
