"""Conjugate gradients for symmetric positive definite systems, which tells when a system is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hvplib.krylov.cg_column import Ball, Column, StepNumbers
from hvplib.krylov.columns import checked, column_norms, power_of_two, zero_block
from hvplib.krylov.inner import EUCLIDEAN, Inner
from hvplib.krylov.iterates import Iterates
from hvplib.krylov.lanczos_process import take_columns
from hvplib.krylov.outcome import LinearOutcome
from hvplib.krylov.record import Record
from hvplib.results.status import Progress, Status

__all__ = ["cg"]

Block = Callable[[Tensor], Tensor]


def cg(
    matmat: Block,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    precondition: Block | None = None,
    inner: Inner = EUCLIDEAN,
    rtol: float,
    atol: float = 0.0,
    max_iter: int,
    radius: float | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> LinearOutcome:
    """A x_j = b_j, j = 1 ... k, for a symmetric positive definite A: the preconditioned conjugate gradients.

    The columns are independent of each other and end one by one; one that has ended takes part in no further
    product. Column j ends at the first of

    * CONVERGED: ‖r_j‖ ≤ max(rtol ‖b_j‖, atol), of the r that the recurrence follows.
    * NEGATIVE_CURVATURE: pᵀA p / pᵀp ≤ 2 eps · max |p_iᵀA p_i| / p_iᵀp_i, over all directions p_i so far.
      Then A is indefinite, singular, or of a condition number above 1 / (2 eps). Or x itself has grown so
      long that ‖A x‖ / ‖x‖ is as small: b has a part in a null space that no p came near.
    * STAGNATED: signs again of such a condition number: ‖r‖ rose by 1/√eps over its least, or an earlier
      pᵀA p turns out to have been too small. Or the residual of the recurrence is lost: it claims convergence
      where rounding, eps ‖A‖ Σ ‖α p‖, hides a tenth of ‖r_0‖, or it fell below eps^(3/2) ‖r_0‖.
    * BOUNDARY, with a radius Δ: ‖x‖ ≥ Δ, or a direction without positive curvature was met; x is then moved
      along p to ‖x‖ = Δ.
    * NON_FINITE, INDEFINITE_PRECONDITIONER, MAX_ITER and STOPPED, as they say.

    The iterate returned is the one with the least residual norm, rounding included. With a radius it is the
    last one instead, which has the least value of the model ½ xᵀA x − bᵀx: give `radius=math.inf` to have
    that for a step of an optimiser that needs no trust region.

    One synchronisation with the device for each step, and one more when a column ends on the boundary.

    Args:
        matmat: X ↦ A X, of blocks (n, j).
        b: Right-hand sides (n, k), float32 or float64.
        x0: Where to start (n, k); zero if None. Costs a product. Not together with a radius.
        precondition: R ↦ P R of blocks (n, j), with P ≈ A⁻¹ symmetric positive definite.
        inner: Sums over the rows.
        rtol: Tolerance relative to ‖b_j‖.
        atol: Absolute tolerance.
        max_iter: The most steps, a product with each column that is still active.
        radius: Δ of the trust region ‖x‖ ≤ Δ; with a preconditioner the norm is that of P⁻¹, in which the
            iterates grow from step to step.
        callback: Called after each step; a truthy answer ends the iteration with STOPPED.

    Returns:
        A `LinearOutcome`, with `decrease` and `lengths` if there is a radius. `direction` holds the last p of
        the columns that met a pᵀA p ≤ 0; rᵀp > 0 of the residual there, so that the model falls along p.

    Raises:
        ValueError: Shapes, tolerances or the radius are not what they must be, or `matmat` returns another
            shape or dtype than it was given.

    References:
        M. R. Hestenes, E. Stiefel (1952), Methods of conjugate gradients for solving linear systems,
        doi:10.6028/jres.049.044; T. Steihaug (1983), The conjugate gradient method and trust regions in large
        scale optimization, doi:10.1137/0720042.

    Example:
        >>> import torch
        >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
        >>> outcome = cg(A.matmul, torch.tensor([[1.0], [2.0]]), rtol=1e-6, max_iter=10)
        >>> outcome.statuses[0].name, outcome.num_matvecs
        ('CONVERGED', 2)
        >>> outcome.x.mT
        tensor([[0.0909, 0.6364]])
    """
    _check(b, x0, rtol, atol, max_iter, radius)
    run = _Run(matmat, precondition, inner, bounded=radius is not None)
    run.start(b, x0, rtol, atol, radius)
    while run.columns and run.record.num_iter < max_iter:
        run.step()
        if callback is not None and callback(run.record.progress()):
            run.end_all(Status.STOPPED)
    run.end_all(Status.MAX_ITER)
    return run.record.outcome()


def _check(
    b: Tensor, x0: Tensor | None, rtol: float, atol: float, max_iter: int, radius: float | None
) -> None:
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
    if radius is not None and not radius > 0:
        raise ValueError(
            f"radius must be positive, got {radius}; leave it out where there is no trust region"
        )
    if radius is not None and x0 is not None:
        raise ValueError(
            "radius and x0 exclude each other: the iterates grow steadily from zero only; for a trust region "
            "around x0 solve A d = b - A x0 for the step d"
        )


class _Run:
    """The blocks of an iteration; `columns` says for which right-hand sides their columns still stand.

    Args:
        matmat, precondition, inner: As in `cg`.
        bounded: Whether there is a trust region.
    """

    def __init__(
        self,
        matmat: Block,
        precondition: Block | None,
        inner: Inner,
        *,
        bounded: bool,
    ) -> None:
        self.columns: list[Column] = []
        self._matmat = matmat
        self._precondition = precondition
        self._inner = inner
        self._bounded = bounded
        self._num_matvecs = 0

    def start(self, b: Tensor, x0: Tensor | None, rtol: float, atol: float, radius: float | None) -> None:
        """r = b − A x0, each column scaled to about one; and the ends that need no step."""
        norms = column_norms(self._inner, b)
        active = [j for j, norm in enumerate(norms) if norm != 0]
        x, r, starts = zero_block(b), _take(b, active), [norms[j] for j in active]
        if x0 is not None and active:
            x.mT[active] = x0.mT[active]
            r = r - self._product(_take(x0, active))
            starts = column_norms(self._inner, r)
        for j, start in zip(active, starts, strict=True):
            tolerance = max(rtol * norms[j], atol)
            self.columns.append(_column(j, start, tolerance, radius, b.dtype))
        first = torch.zeros(b.shape[1], dtype=torch.float64)
        first[active] = torch.tensor(starts, dtype=torch.float64)
        self.record = Record(x, first, self._num_matvecs, self._inner)
        self.record.end(torch.tensor([j for j in range(b.shape[1]) if norms[j] == 0]), Status.CONVERGED)
        self._r = r * r.new_tensor([column.scale for column in self.columns])
        self._rr = self._inner.columns(self._r, self._r)
        self._iterates = Iterates(zero_block(self._r))
        # In the first step β = rᵀP r / ∞ = 0.
        self._p, self._alpha = zero_block(self._r), self._rr
        self._rz = torch.full_like(self._rr, torch.inf)
        self._retire([column.first_status() for column in self.columns])

    def step(self) -> None:
        """One product with each column that is left, and what follows from it."""
        p, rz = self._turn()
        q = self._product(p)
        pq = self._inner.columns(p, q)
        self._alpha = rz / pq
        r = self._r
        # In place, unless a column may yet go only a part of the way.
        self._r = torch.addcmul(r, q, self._alpha, value=-1, out=None if self._bounded else r)
        self._rr = self._inner.columns(self._r, self._r)
        sums = [rz, pq, self._rr]
        if self._precondition is not None:
            sums.append(self._inner.columns(p, p))
        if self._bounded:
            # The last p is orthogonal to r, and x before it will do for x after it.
            sums.append(self._inner.columns(self._iterates.x, self._r))
        # So far nothing was checked. Here the host sees the numbers, and decides what of it stands.
        steps = self._numbers(torch.cat(sums).tolist())
        verdicts = [column.judge(step) for column, step in zip(self.columns, steps, strict=True)]
        if all(status is None for status, _ in verdicts):
            self._tell()
            self._iterates.advance(p, self._alpha, [keep for _, keep in verdicts])
            return
        self._cut(r, p, q)
        self._tell()
        # What ends without its new iterate goes first: its p and α need not be numbers.
        self._retire([None if keep else status for status, keep in verdicts])
        left = [(status, keep) for status, keep in verdicts if keep or status is None]
        if left:
            self._iterates.advance(self._p, self._alpha, [keep for _, keep in left])
        self._retire([status for status, _ in left])

    def end_all(self, status: Status) -> None:
        """End the columns that are left."""
        self._retire([status for _ in self.columns])

    def _numbers(self, sums: list[float]) -> list[StepNumbers]:
        """For each column, from the sums of all columns one kind after the other."""
        k = len(self.columns)
        kinds: list[Sequence[float | None]] = [sums[i : i + k] for i in range(0, len(sums), k)]
        if self._precondition is None:
            kinds.insert(3, [None] * k)
        return [StepNumbers(*row) for row in zip(*kinds, strict=True)]

    def _turn(self) -> tuple[Tensor, Tensor]:
        """p ← P r + β p and rᵀP r; in place, as nobody else holds p."""
        if self._precondition is None:
            z, rz = self._r, self._rr
        else:
            z = checked("precondition", self._precondition(self._r), self._r)
            rz = self._inner.columns(self._r, z)
        torch.addcmul(z, self._p, rz / self._rz, out=self._p)
        self._rz = rz
        return self._p, rz

    def _product(self, X: Tensor) -> Tensor:
        self._num_matvecs += X.shape[1]
        return checked("matmat", self._matmat(X), X)

    def _cut(self, r: Tensor, p: Tensor, q: Tensor) -> None:
        """Move the columns that leave the trust region to its boundary; their residual is r − τ A p."""
        for i, column in enumerate(self.columns):
            if (tau := column.boundary_step) is not None:
                cut = r[:, i : i + 1] - tau * q[:, i : i + 1]
                column.residual = column.kept = column_norms(self._inner, cut)[0]
                self._iterates.x[:, i] += tau * p[:, i]

    def _tell(self) -> None:
        self.record.num_matvecs = self._num_matvecs
        self.record.step(
            [column.index for column in self.columns],
            [column.residual / column.scale for column in self.columns],
        )

    def _retire(self, statuses: Sequence[Status | None]) -> None:
        """Take the columns that have a status out of the blocks."""
        left = [i for i, status in enumerate(statuses) if status is None]
        if len(left) == len(statuses):
            return
        for i, (column, status) in enumerate(zip(self.columns, statuses, strict=True)):
            if status is not None:
                self._end(i, column, status)
        self.columns = [self.columns[i] for i in left]
        self._r, self._rr = _take(self._r, left), self._rr[left]
        self._alpha, self._rz = self._alpha[left], self._rz[left]
        self._p = _take(self._p, left)
        self._iterates.take(left)

    def _end(self, i: int, column: Column, status: Status) -> None:
        index, direction, flat = torch.tensor([column.index]), self._p, column.flat
        if column.drifted and not self._bounded:
            x = self._iterates.x
            if column.is_null(column_norms(self._inner, x[:, i : i + 1])[0]):
                status, direction, flat = Status.NEGATIVE_CURVATURE, x, 0.0
        self.record.end(
            index, status, self._iterates.kept(i) / column.scale if column.settle(status) else None
        )
        self.record.revise(index, torch.tensor([column.kept / column.scale], dtype=torch.float64))
        if self._bounded:
            self.record.gain(index, column.decrease / column.scale**2, column.length / column.scale)
        if flat is not None:
            self.record.meet(index, direction[:, i : i + 1], torch.tensor([flat], dtype=torch.float64))


def _take(X: Tensor, columns: list[int]) -> Tensor:
    """These columns of X, a copy."""
    return take_columns(X, torch.tensor(columns, dtype=torch.long))


def _column(index: int, start: float, tolerance: float, radius: float | None, dtype: torch.dtype) -> Column:
    """What is to be known of a column with ‖r_0‖ = start, in units that bring this near one."""
    scale = power_of_two(start, dtype)
    return Column(
        index,
        scale=scale,
        tolerance=tolerance * scale,
        start=start * scale,
        eps=torch.finfo(dtype).eps,
        ball=None if radius is None else Ball(radius * scale),
    )
