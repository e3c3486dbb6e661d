"""A whole path of shifts, A + σ_i I, from one Krylov space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hvplib.krylov.columns import column_norms, power_of_two, zero_block
from hvplib.krylov.curvatures import Curvatures
from hvplib.krylov.inner import EUCLIDEAN, Inner
from hvplib.krylov.lanczos_process import LanczosProcess, coefficients, take_columns
from hvplib.krylov.outcome import LinearOutcome
from hvplib.krylov.record import Record
from hvplib.results.status import Progress, Status

__all__ = ["multishift_cg"]

Block = Callable[[Tensor], Tensor]


def multishift_cg(
    matmat: Block,
    b: Tensor,
    shifts: Tensor,
    *,
    inner: Inner = EUCLIDEAN,
    rtol: float,
    atol: float = 0.0,
    max_iter: int,
    callback: Callable[[Progress], object] | None = None,
) -> LinearOutcome:
    """(A + σ_i I) x_i = b, i = 1 ... s, each symmetric positive definite, for one product a step.

    The Krylov space of A and b does not change with a shift. So one Lanczos process A V = V T + β v eᵀ serves
    all, and each shift has its own factors of T + σ_i I = L D Lᵀ, from which its iterates follow by short
    recurrences: those of conjugate gradients for A + σ_i I, in exact arithmetic. The shifts end one by one,
    shift i at the first of

    * CONVERGED: ‖b − (A + σ_i I) x_i‖ = β |u_i| ≤ max(rtol ‖b‖, atol), with u_i the last entry of
      (T + σ_i I)⁻¹ ‖b‖ e₁.
    * NEGATIVE_CURVATURE: an entry d = pᵀ(A + σ_i I) p of D has d / ‖p‖² ≤ 2 eps max |T_jj|.
    * STAGNATED: the Krylov space is exhausted within rounding, and the residual still above the tolerance; an
      earlier d turns out to have been too small; or convergence is claimed where rounding, eps ‖A‖ ‖x_i‖,
      hides a tenth of ‖b‖.
    * NON_FINITE, MAX_ITER and STOPPED, as they say.

    The space keeps three vectors, and two for each shift that has not ended. One synchronisation with the
    device for each step.

    Args:
        matmat: X ↦ A X, of blocks (n, 1).
        b: The right-hand side (n, 1), float32 or float64.
        shifts: σ (s,), zero or negative too as long as A + σ_i I is positive definite.
        inner: Sums over the rows.
        rtol: Tolerance relative to ‖b‖.
        atol: Absolute tolerance.
        max_iter: The most steps, a product each.
        callback: Called after each step; a truthy answer ends the iteration with STOPPED.

    Returns:
        A `LinearOutcome` whose columns are the shifts: x (n, s), the last iterates. `direction` holds p,
        and `curvature` pᵀ(A + σ_i I) p / pᵀp.

    Raises:
        ValueError: Shapes, shifts or tolerances are not what they must be, or `matmat` returns another shape
            or dtype than it was given.

    References:
        A. Frommer, P. Maass (1999), Fast CG-based methods for Tikhonov-Phillips regularization,
        doi:10.1137/S1064827596313310; J. van den Eshof, G. L. G. Sleijpen (2004), Accurate conjugate gradient
        methods for families of shifted systems, doi:10.1016/j.apnum.2003.11.010.

    Example:
        >>> import torch
        >>> A = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
        >>> path = multishift_cg(A.matmul, torch.ones(3, 1), torch.tensor([0.0, 1.0]), rtol=1e-6, max_iter=10)
        >>> path.x.mT, path.num_matvecs
        (tensor([[1.0000, 0.5000, 0.3333],
                [0.5000, 0.3333, 0.2500]]), 3)
    """
    _check(b, shifts, rtol, atol, max_iter)
    run = _Run(matmat, b, shifts.detach().cpu().double().tolist(), inner, (rtol, atol))
    while run.systems and run.record.num_iter < max_iter:
        run.step()
        if callback is not None and callback(run.record.progress()):
            run.end_all(Status.STOPPED)
    run.end_all(Status.MAX_ITER)
    return run.record.outcome()


def _check(b: Tensor, shifts: Tensor, rtol: float, atol: float, max_iter: int) -> None:
    if b.dim() != 2 or b.shape[1] != 1 or b.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"b must be (n, 1) of float32 or float64, got {tuple(b.shape)} of {b.dtype}; the Krylov space is "
            "that of one right-hand side: call once for each"
        )
    if shifts.dim() != 1 or shifts.is_complex() or not bool(shifts.isfinite().all()):
        raise ValueError(f"shifts must be finite real numbers (s,), got {shifts}")
    if not (rtol >= 0 and atol >= 0 and max_iter >= 0):
        raise ValueError(
            f"rtol, atol and max_iter must not be negative, got rtol={rtol}, atol={atol}, max_iter={max_iter}"
        )


class _System:
    """One shift: the ends of the factors of T + σ I = L D Lᵀ and of what follows from them, in float64.

    Attributes:
        index: Which of the shifts.
        residual: ‖b − (A + σ I) x‖.
        slope: What is taken off v of the last direction, for the new one.
        weight: By which the new direction enters x.
        curvature: pᵀ(A + σ I) p of the new direction p, the last entry of D.
        flat: Whether that is not positive beyond rounding.
    """

    def __init__(self, index: int, shift: float, norm_b: float, eps: float) -> None:
        self.index = index
        self.residual = norm_b
        # As though a step before the first had β = 1 and D = 1, and left no direction.
        self.slope, self.weight, self.curvature = 0.0, -norm_b, 1.0
        self.flat = False
        self._shift, self._norm_b = shift, norm_b
        self._pp = self._path = 0.0
        # Of A + σ I, in which rounding leaves eps ‖A‖.
        self._curvatures = Curvatures(eps)

    def extend(self, beta_before: float, alpha: float, beta: float) -> Status | None:
        """Take in α with β before and after it; how the system ends with that, None if it goes on."""
        if self._pp > 0:
            self.slope = beta_before / self.curvature
        self.curvature = alpha + self._shift - beta_before * self.slope
        self._pp = (
            1 + self.slope * self.slope * self._pp
        )  # p = v − slope p, and v is orthogonal to the last p
        self.flat = self._curvatures.meet(self.curvature / self._pp, abs(alpha))
        if self.flat:
            self.weight = 0.0
            return Status.NEGATIVE_CURVATURE
        self.weight *= -beta_before / self.curvature
        self.residual = beta * abs(self.weight)
        self._path += abs(self.weight) * math.sqrt(self._pp)
        return Status.STAGNATED if self._curvatures.singular else None

    def end(self, tolerance: float, exhausted: bool) -> Status | None:
        """How the system ends now, None if it goes on."""
        if self.residual <= tolerance:
            # Where rounding hides a tenth of the first residual, the recurrence has lost the true one.
            lost = self._curvatures.zero * self._path > 0.1 * self._norm_b
            return Status.STAGNATED if lost else Status.CONVERGED
        return Status.STAGNATED if exhausted else None


class _Run:
    """The Lanczos process, and the directions and iterates (n, j) of the shifts that have not ended.

    Everything is scaled by a power of two that brings ‖b‖ near one.
    """

    def __init__(
        self, matmat: Block, b: Tensor, shifts: list[float], inner: Inner, tolerances: tuple[float, float]
    ) -> None:
        (norm,) = column_norms(inner, b)
        rtol, atol = tolerances
        self._scale = power_of_two(norm, b.dtype)
        self._tolerance = max(rtol * norm, atol) * self._scale
        self._eps = torch.finfo(b.dtype).eps
        self._beta = norm * self._scale
        self._size = 0.0  # of T, from below
        self.systems = [_System(i, shift, self._beta, self._eps) for i, shift in enumerate(shifts)]
        self._p, self._x = zero_block(b, len(shifts)), zero_block(b, len(shifts))
        norms = torch.full((len(shifts),), norm, dtype=torch.float64)
        self.record = Record(zero_block(b, len(shifts)), norms, 0, inner)
        self._lanczos = LanczosProcess(matmat, b * self._scale, shift=0.0, precondition=None, inner=inner)
        if not math.isfinite(norm):
            self.end_all(Status.NON_FINITE)
        elif self._beta <= self._tolerance:
            self.end_all(Status.CONVERGED)

    def step(self) -> None:
        """One product, and with it one step of each shift."""
        self._lanczos.normalise(torch.tensor([self._beta], dtype=torch.float64))
        sums = torch.cat([self._lanczos.expand(), self._lanczos.beta_squared()])
        self.record.num_matvecs += 1
        alpha, beta_squared = sums.tolist()
        if math.isfinite(alpha) and math.isfinite(beta_squared):
            statuses = self._extend(alpha, math.sqrt(beta_squared))
        else:
            statuses = [Status.NON_FINITE for _ in self.systems]
        self.record.step(
            [system.index for system in self.systems],
            [system.residual / self._scale for system in self.systems],
        )
        self._retire(statuses)

    def _extend(self, alpha: float, beta: float) -> list[Status | None]:
        """One more row of T, and what follows from it for each shift."""
        before = self._beta if self._size else 1.0
        statuses = [system.extend(before, alpha, beta) for system in self.systems]
        rows = [[system.slope for system in self.systems], [system.weight for system in self.systems]]
        slopes, weights = coefficients([torch.tensor(row, dtype=torch.float64) for row in rows], self._p)
        self._p = torch.addcmul(self._lanczos.v, self._p, -slopes, out=self._p)
        self._x.addcmul_(self._p, weights)
        self._beta, self._size = beta, max(self._size, abs(alpha), beta)
        exhausted = beta <= self._eps * self._size
        return [
            status or system.end(self._tolerance, exhausted)
            for system, status in zip(self.systems, statuses, strict=True)
        ]

    def end_all(self, status: Status) -> None:
        """End the shifts that are left."""
        self._retire([status for _ in self.systems])

    def _retire(self, statuses: Sequence[Status | None]) -> None:
        """Take the shifts that have a status out of the blocks."""
        left = [i for i, status in enumerate(statuses) if status is None]
        if len(left) == len(statuses):
            return
        for i, (system, status) in enumerate(zip(self.systems, statuses, strict=True)):
            if status is not None:
                self._record_end(i, system, status)
        self.systems = [self.systems[i] for i in left]
        index = torch.tensor(left, dtype=torch.long)
        self._p, self._x = take_columns(self._p, index), take_columns(self._x, index)

    def _record_end(self, i: int, system: _System, status: Status) -> None:
        index = torch.tensor([system.index])
        self.record.end(index, status, self._x[:, i : i + 1] / self._scale)
        if system.flat:
            curvature = torch.tensor([system.curvature], dtype=torch.float64)
            self.record.meet(index, self._p[:, i : i + 1], curvature)
