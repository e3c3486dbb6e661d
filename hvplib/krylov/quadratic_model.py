"""A quadratic model on one growing Krylov space: its minimisers in balls, and with cubic terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hvplib.krylov.columns import column_norms, power_of_two
from hvplib.krylov.conjugate_directions import conjugate_directions
from hvplib.krylov.growing_system import GrowingSystem
from hvplib.krylov.inner import EUCLIDEAN, Inner
from hvplib.krylov.quadratic_process import Block, MetricLanczos
from hvplib.krylov.quadratic_step import QuadraticStep
from hvplib.krylov.secular import Minimiser, ball_step, cubic_step
from hvplib.results.status import Status

__all__ = ["QuadraticSpace"]

Small = Callable[[Tensor, Tensor], Minimiser]

# Up to this dimension the small problem is solved after each product, later sixteen times in each doubling.
_EACH = 32


class _Eigen(NamedTuple):
    """T = S diag(θ) Sᵀ, and the coordinates of g in the Ritz vectors."""

    values: Tensor
    vectors: Tensor
    coefficients: Tensor


class QuadraticSpace:
    """q(s) = gᵀs + ½ sᵀH s on the Krylov space of P H and P g, for any H = Hᵀ: the space is a value.

    H V = U T + β u eᵀ with VᵀU = I, U = M V, M = P⁻¹. `ball` minimises q where ‖s‖_M ≤ Δ, `cubic` minimises
    q(s) + (σ/3) ‖s‖_M³, both globally over the space, which grows as far as they need it. A smaller radius or
    a larger σ afterwards is answered from the same space, usually without a product: so a step that was
    rejected costs none. A step ends the growth of the space when

        ‖(H + μM) s + g‖_M⁻¹ = |β eᵀy| ≤ rtol max(‖g‖_M⁻¹, μ ‖s‖_M),        s = V y,

    of which the second term is the larger only where g is small beside negative curvature.

    All new vectors are made orthogonal to all others, so T is what it should be, and the residual is true to
    rounding. The small problems are solved on the CPU in float64. Memory: one vector for each product, two
    with a preconditioner. One synchronisation a product.

    **When g hides a part of H**: if P g lies in an invariant subspace (on a saddle's stable manifold, or
    where g = 0), its Krylov space ends, and tells nothing of the rest. With `random` the space is then
    continued from a random vector orthogonal to it, for up to `search_dim` products or until it ends again.
    If it ends, then T has, with probability one, an eigenvalue of each eigenspace of H that was hidden; so
    the negative curvature, if there is any, is known, and s is the global minimiser: the hard case. If it
    does not end after p = `search_dim` products, the probability that the least hidden eigenvalue is missed
    by more than a share ε of the spread of the spectrum is at most 1.65 √n exp(−(2p − 1) √ε) (without
    preconditioner; for p = 20, n = 10⁴, ε = 0.1: 0.0008). Where the tolerance is reached before the space of
    g ends, nothing is searched: what is negative and almost orthogonal to g may then be missed.

    Args:
        matmat: X ↦ H X, of blocks (n, 1).
        g: (n, 1), float32 or float64; may be zero.
        precondition: R ↦ P R, symmetric positive definite: ‖s‖_M is large in directions where P is small.
        inner: Sums over the rows.
        krylov_dim: The largest dimension.
        random: j ↦ a block (n, j) of independent normal numbers; without it nothing hidden is searched for.
        search_dim: Products that a search for hidden curvature may take.

    Attributes:
        num_matvecs: Products made.

    Raises:
        ValueError: Shapes or numbers are not what they must be, or a callable returns another shape or dtype
            than it was given. An exception in a product leaves the space as it was.

    References:
        N. I. M. Gould, S. Lucidi, M. Roma, Ph. L. Toint (1999), Solving the trust-region subproblem using the
        Lanczos method, doi:10.1137/S1052623497322735; C. Cartis, N. I. M. Gould, Ph. L. Toint (2011),
        Adaptive cubic regularisation methods, part I, doi:10.1007/s10107-009-0286-5; for the probability
        J. Kuczyński, H. Woźniakowski (1992), doi:10.1137/0613066.

    Example:
        >>> import torch
        >>> H, g = torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.tensor([[3.0], [0.0]])
        >>> rng = torch.Generator().manual_seed(0)
        >>> normal = lambda j: torch.randn(2, j, generator=rng)
        >>> space = QuadraticSpace(H.matmul, g, krylov_dim=2, random=normal)
        >>> step = space.ball(2.0)
        >>> step.s.mT.abs(), round(step.multiplier, 5), step.on_boundary  # the hard case
        (tensor([[1.0000, 1.7321]]), 2.0, True)
        >>> step = space.ball(0.5)
        >>> step.s.mT, step.num_matvecs
        (tensor([[-0.5000,  0.0000]]), 2)
    """

    def __init__(
        self,
        matmat: Block,
        g: Tensor,
        *,
        precondition: Block | None = None,
        inner: Inner = EUCLIDEAN,
        krylov_dim: int,
        random: Callable[[int], Tensor] | None = None,
        search_dim: int = 20,
    ) -> None:
        _check(g, krylov_dim, search_dim)
        self._process = MetricLanczos(matmat, g, precondition, inner)
        self._krylov_dim = krylov_dim
        self._random = random
        self._search_dim = search_dim
        self._zero = torch.zeros_like(g)
        self._search_from: int | None = None  # the dimension at which the search for hidden curvature began
        self._broken: Status | None = None
        self._norm = 0.0  # ‖g‖ in the norm of M⁻¹
        self._known: _Eigen | None = None
        self._inside = GrowingSystem()  # T y = −e₁: times ‖g‖, the minimiser where there is no ball
        norm = column_norms(inner, g)[0]
        if not math.isfinite(norm):
            self._broken = Status.NON_FINITE
        elif norm > 0:
            scale = power_of_two(norm, g.dtype)
            length = self._process.begin(g * scale)
            self._norm = length / scale
            self._broken = self._process.fault

    # What there is.

    @property
    def num_matvecs(self) -> int:
        """Products made."""
        return self._process.num_matvecs

    @property
    def T(self) -> Tensor:
        """VᵀH V (m, m), tridiagonal, float64, on the CPU."""
        return self._process.T

    @property
    def gradient_norm(self) -> float:
        """‖g‖_M⁻¹."""
        return self._norm

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """θ (m,) ascending, their coordinates (m, m), and residual norms (m,); float64, on the CPU."""
        values, vectors, _ = self._eigen()
        return values, vectors, self._process.coupling * vectors[-1:].abs().reshape(-1)

    def combine(self, coordinates: Tensor) -> Tensor:
        """V C for coordinates (m, k): a block (n, k)."""
        return self._process.basis.combine(coordinates)

    def conjugate_directions(self, count: int) -> tuple[Tensor, Tensor] | None:
        """S and H S (n, j), j ≤ `count`, with SᵀH S = I up to rounding; None where H curves down at once."""
        return conjugate_directions(self._process, count)

    # Steps.

    def ball(
        self,
        radius: float,
        *,
        rtol: float = 1e-8,
        boundary_rtol: float | None = None,
        max_matvecs: float = math.inf,
    ) -> QuadraticStep:
        """s ≈ argmin gᵀs + ½ sᵀH s subject to ‖s‖_M ≤ Δ.

        However early it ends after a product, s is at least as good as the Cauchy point, the best in the ball
        along −P g.

        Args:
            radius: Δ, positive and finite.
            rtol: Of the stopping rule.
            boundary_rtol: The same where s lies on the boundary; rtol if None. There the ball decides how far
                the model is trusted, and digits of s are worth less.
            max_matvecs: Products that this call may make.

        Returns:
            The step. CONVERGED: within the tolerance, inside or on the boundary. MAX_ITER: `krylov_dim` or
            `max_matvecs` came first. NON_FINITE: a product was not finite; s is from what was known before.

        Raises:
            ValueError: The radius is not positive and finite, or a tolerance or max_matvecs is negative.
        """
        tolerances = rtol, rtol if boundary_rtol is None else boundary_rtol
        _check_call("radius", radius, min(tolerances), max_matvecs)
        return self._minimised(partial(ball_step, radius=radius), tolerances, max_matvecs, radius)

    def cubic(self, sigma: float, *, rtol: float = 1e-8, max_matvecs: float = math.inf) -> QuadraticStep:
        """s ≈ argmin gᵀs + ½ sᵀH s + (σ/3) ‖s‖_M³.

        Args:
            sigma: σ, positive and finite.
            rtol: Of the stopping rule.
            max_matvecs: Products that this call may make.

        Returns:
            As `ball`, with μ = σ ‖s‖_M.

        Raises:
            ValueError: σ is not positive and finite, or rtol or max_matvecs is negative.
        """
        _check_call("sigma", sigma, rtol, max_matvecs)
        return self._minimised(partial(cubic_step, sigma=sigma), (rtol, rtol), max_matvecs)

    def _minimised(
        self, small: Small, rtols: tuple[float, float], max_matvecs: float, radius: float = 0.0
    ) -> QuadraticStep:
        limit = self.num_matvecs + max_matvecs
        while True:
            self._go_on_elsewhere()
            end = self._end(limit)
            if end is not None or self._is_due(radius, rtols[0]):
                found = self._found(small)
                residual = self._residual(found)
                tolerance = rtols[found.on_boundary] * max(self._norm, found.multiplier * found.norm)
                if self._process.count and residual <= tolerance and not self._searching:
                    return self._step(found, residual, Status.CONVERGED)
                if end is not None:
                    return self._step(found, residual, end)
            self._process.expand()
            self._broken = self._process.fault
            if self._broken is None:
                self._inside.grow(self._process.diagonal[-1], self._process.couplings[-1])

    def _is_due(self, radius: float, rtol: float) -> bool:
        """Whether the small problem may be the last: to solve it takes longer than many a product.

        As long as T is positive definite and its minimum inside the ball, what is left of the gradient is
        known without.
        """
        if self._searching or not _due(self._process.count):
            return False
        inside = self._inside.definite and self._norm * self._inside.length < radius
        residual = self._process.coupling * self._norm * self._inside.last
        return not (inside and residual > rtol * self._norm)

    def _go_on_elsewhere(self) -> None:
        """Begin the search for what g hides, once, when its space has ended."""
        ended = not self._process.has_next and self._broken is None
        if ended and self._search_from is None and self._random is not None and self._search_dim:
            self._search_from = self._process.count
            self._process.renew(self._random(1))
            self._broken = self._process.fault

    def _end(self, limit: float) -> Status | None:
        """Why the space grows no more; None if it can."""
        if self._broken is not None:
            return self._broken
        if not self._process.has_next:
            return Status.CONVERGED
        full = self._process.count >= self._krylov_dim or self.num_matvecs >= limit
        return Status.MAX_ITER if full else None

    @property
    def _searching(self) -> bool:
        start = self._search_from
        return start is not None and self._process.has_next and self._process.count - start < self._search_dim

    def _found(self, small: Small) -> Minimiser:
        if self._process.count == 0:
            return Minimiser(torch.zeros(0, dtype=torch.float64), 0.0, 0.0, 0.0, False)
        eigen = self._eigen()
        return small(eigen.values, eigen.coefficients)

    def _eigen(self) -> _Eigen:
        if self._known is None or self._known.values.shape[0] != self._process.count:
            values, vectors = torch.linalg.eigh(self._process.T)
            self._known = _Eigen(values, vectors, self._norm * vectors[:1].reshape(-1))
        return self._known

    def _residual(self, found: Minimiser) -> float:
        if self._process.count == 0:
            return self._norm
        last = float(self._eigen().vectors[-1] @ found.coordinates)
        return self._process.coupling * abs(last)

    def _step(self, found: Minimiser, residual: float, status: Status) -> QuadraticStep:
        least = math.nan, math.nan
        s, direction = self._zero, None
        if self._process.count:
            values, vectors, residuals = self.ritz()
            least = float(values[0]), float(residuals[0])
            columns = (vectors @ found.coordinates).unsqueeze(1)
            if least[0] < 0:
                columns = torch.cat([columns, vectors[:, :1]], dim=1)
            combined = self.combine(columns)
            s = combined[:, :1]
            direction = combined[:, 1:] if least[0] < 0 else None
        return QuadraticStep(
            s=s,
            predicted=found.predicted,
            norm=found.norm,
            multiplier=found.multiplier,
            on_boundary=found.on_boundary,
            residual_norm=residual,
            num_matvecs=self.num_matvecs,
            krylov_dim=self._process.count,
            least_ritz=least[0],
            least_ritz_residual=least[1],
            direction=direction,
            status=status,
        )


def _due(count: int) -> bool:
    return 0 < count <= _EACH or (count > 0 and count % (count // (_EACH // 2)) == 0)


def _check(g: Tensor, krylov_dim: int, search_dim: int) -> None:
    if g.dim() != 2 or g.shape[1] != 1 or g.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"g must be (n, 1) of float32 or float64, got {tuple(g.shape)} of {g.dtype}; "
            "give a vector as g[:, None]"
        )
    if not (krylov_dim >= 1 and search_dim >= 0):
        raise ValueError(
            f"krylov_dim must be at least 1 and search_dim not negative, got {krylov_dim} and {search_dim}"
        )


def _check_call(name: str, value: float, rtol: float, max_matvecs: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
    if not (rtol >= 0 and max_matvecs >= 0):
        raise ValueError(f"rtol and max_matvecs must not be negative, got {rtol} and {max_matvecs}")
