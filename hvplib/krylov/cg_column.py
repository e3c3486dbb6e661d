"""What conjugate gradients decides of one right-hand side, from the few numbers of a step."""

from __future__ import annotations

import math
from typing import NamedTuple

from hvplib.krylov.curvatures import Curvatures
from hvplib.results.status import Status

__all__ = ["Ball", "Column", "StepNumbers"]


# The part of the first residual at which what rounding hides has become too much.
_HIDDEN = 0.1


class StepNumbers(NamedTuple):
    """The inner products of one step, of one column.

    Attributes:
        rz: rᵀ P r before the step.
        pq: pᵀ A p.
        rr: rᵀ r after the step.
        pp: pᵀ p; not needed without a preconditioner, where it is pᵀ P⁻¹ p.
        xr: xᵀ r after the step; not needed without a radius.
    """

    rz: float
    pq: float
    rr: float
    pp: float | None = None
    xr: float = 0.0


class Ball:
    """‖x‖_M ≤ Δ with M = P⁻¹, followed by recurrences that need no product with M.

    With p ← P r + β p and x ← x + α p: pᵀM p ← rᵀP r + β² pᵀM p, as r is orthogonal to the last p, and
    xᵀM p ← xᵀr + β (xᵀM p + α pᵀM p). An infinite Δ holds everything.

    References:
        A. R. Conn, N. I. M. Gould, P. L. Toint (2000), Trust-region methods, section 7.5.1,
        doi:10.1137/1.9780898719857; with xᵀr, which is zero in exact arithmetic, added to the recurrence.
    """

    def __init__(self, radius: float) -> None:
        self.radius = radius
        self._xx = self._xp = self._xr = 0.0
        self._pp = 0.0

    def turn(self, beta: float, pp: float) -> None:
        """Follow the change of the direction, to one with pᵀM p = pp."""
        self._xp = self._xr + beta * self._xp
        self._pp = pp

    def holds(self, alpha: float) -> bool:
        """Whether ‖x + α p‖_M < Δ."""
        return self.radius == math.inf or self._after(alpha) < self.radius * self.radius

    @property
    def length(self) -> float:
        """‖x‖_M."""
        return math.sqrt(max(self._xx, 0.0))

    def to_boundary(self) -> float:
        """τ ≥ 0 with ‖x + τ p‖_M = Δ: the positive root of (pᵀM p) τ² + 2 (xᵀM p) τ = Δ² − xᵀM x."""
        norm_p, norm_x = math.sqrt(self._pp), math.sqrt(self._xx)
        if norm_x >= self.radius:
            return 0.0
        room = math.sqrt(self.radius - norm_x) * math.sqrt(self.radius + norm_x)
        along = self._xp / norm_p
        return room / norm_p * (room / (along + math.hypot(along, room)))

    def move(self, alpha: float, xr: float) -> None:
        """Follow x ← x + α p, with xᵀr after it."""
        self._xx = self._after(alpha)
        self._xp += alpha * self._pp
        self._xr = xr

    def _after(self, alpha: float) -> float:
        return self._xx + alpha * (2 * self._xp + alpha * self._pp)


class Column:
    """One right-hand side: its tolerance, the extremes met so far, and how it ended.

    All norms are those of the system scaled by `scale`.

    Args:
        index: Which column of b.
        scale: The power of two by which b was multiplied.
        tolerance: The residual norm asked for.
        start: ‖r‖ at the start.
        eps: Unit of rounding of the vectors.
        ball: The trust region, if there is one.

    Attributes:
        residual: ‖r‖ of the last iterate.
        kept: ‖r‖ of the iterate that is kept.
        flat: pᵀA p of the last direction if it is not positive beyond rounding; None otherwise.
        drifted: Whether convergence was claimed where rounding hides the residual: x is so long then, unless
            its steps cancel, that it is a null vector as far as one can tell.
        boundary_step: τ to the boundary of the trust region if the column ends there; None otherwise.
        decrease: bᵀx − ½ xᵀA x of the last iterate, if the first was zero.
    """

    def __init__(
        self, index: int, *, scale: float, tolerance: float, start: float, eps: float, ball: Ball | None
    ) -> None:
        self.index = index
        self.scale = scale
        self.ball = ball
        self.residual = self.kept = start
        self.flat: float | None = None
        self.drifted = False
        self.boundary_step: float | None = None
        self.decrease = 0.0
        self._tolerance = tolerance
        self._eps = eps
        self._start = self._least = start
        self._path = self._kept_path = 0.0  # Σ ‖α p‖ ≥ ‖x‖
        self._curvatures = Curvatures(eps)
        self._rz, self._mp = math.inf, 0.0  # rᵀP r and pᵀP⁻¹p

    def first_status(self) -> Status | None:
        """How the column ends before the first step; None if it does not."""
        if not math.isfinite(self.residual):
            return Status.NON_FINITE
        return Status.CONVERGED if self.residual <= self._tolerance else None

    def judge(self, step: StepNumbers) -> tuple[Status | None, bool]:
        """How the column ends with this step, None if it goes on; and whether to keep the new iterate."""
        status = self._breakdown(step) or self._boundary(step)
        if status is not None:
            return status, False
        alpha = step.rz / step.pq
        self.residual = math.sqrt(step.rr)
        self.decrease += alpha * step.rz / 2
        self._path += alpha * math.sqrt(self._pp(step))
        if self.ball is not None:
            self.ball.move(alpha, step.xr)
        status = self._end()
        # Of a system, the iterate with the least residual is wanted; in a trust region that with the least
        # ½ xᵀA x − bᵀx, which is the last.
        last = self.ball is not None or status is Status.CONVERGED
        keep = last or self.residual + self._noise(self._path) < self.kept + self._noise(self._kept_path)
        if keep:
            self.kept, self._kept_path = self.residual, self._path
        return status, keep

    def settle(self, status: Status) -> bool:
        """Whether the iterate that is kept stands at this end; if not, the first one is kept instead."""
        trusted = self.kept + self._noise(self._kept_path) <= self._start
        if trusted or self.ball is not None or status is Status.CONVERGED:
            return True
        self.kept = self._start
        return False

    def is_null(self, length: float) -> bool:
        """Whether an x of this length with ‖A x‖ ≤ ‖r_0‖ + ‖r‖ is a null vector as far as rounding shows."""
        return self._start + self.residual <= self._noise(length) / _HIDDEN

    def _noise(self, path: float) -> float:
        """What rounding in A x moves the true residual by, unseen by the recurrence: eps ‖A‖ ‖x‖."""
        return self._curvatures.zero * path

    def _breakdown(self, step: StepNumbers) -> Status | None:
        if not math.isfinite(step.rz):
            return Status.NON_FINITE
        if step.rz <= 0:
            return Status.INDEFINITE_PRECONDITIONER
        beta, self._rz = step.rz / self._rz, step.rz
        self._mp = step.rz + beta * beta * self._mp
        pp = self._pp(step)
        if not (math.isfinite(step.pq) and math.isfinite(pp)):
            return Status.NON_FINITE
        if pp == 0:
            return Status.STAGNATED  # the square of a p that is not zero left the range of the dtype
        if self.ball is not None:
            self.ball.turn(beta, self._mp)
        if self._curvatures.meet(step.pq / pp):
            self.flat = step.pq
            return self._to_boundary(step) if self._bounded else Status.NEGATIVE_CURVATURE
        return None if math.isfinite(step.rr) else Status.NON_FINITE

    @property
    def length(self) -> float:
        """‖x‖_M, in a trust region."""
        assert self.ball is not None
        return self.ball.length if self.boundary_step is None else self.ball.radius

    @property
    def _bounded(self) -> bool:
        return self.ball is not None and math.isfinite(self.ball.radius)

    def _boundary(self, step: StepNumbers) -> Status | None:
        if self.ball is None or self.ball.holds(step.rz / step.pq):
            return None
        return self._to_boundary(step)

    def _pp(self, step: StepNumbers) -> float:
        return self._mp if step.pp is None else step.pp

    def _to_boundary(self, step: StepNumbers) -> Status:
        assert self.ball is not None
        tau = self.boundary_step = self.ball.to_boundary()
        self.decrease += tau * (step.rz - tau * step.pq / 2)
        return Status.BOUNDARY

    def _end(self) -> Status | None:
        if self.residual <= self._tolerance:
            # Where rounding hides a tenth of the first residual, the recurrence has lost the true one.
            self.drifted = not self._noise(self._path) <= _HIDDEN * self._start
            return Status.STAGNATED if self.drifted else Status.CONVERGED
        self._least = min(self._least, self.residual)
        # ‖r_j‖ ≤ √κ ‖r_i‖ for j > i, as the error falls in the energy norm: a larger rise proves κ > 1/eps.
        risen = math.sqrt(self._eps) * self.residual > self._least
        # To round x alone moves the residual by about eps ‖A‖ ‖x‖ ≥ eps ‖r_0‖: far below it the recurrence
        # has lost the residual.
        lost = self.residual <= self._eps**1.5 * self._start
        return Status.STAGNATED if self._curvatures.singular or risen or lost else None
