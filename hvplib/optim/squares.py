"""f = ½‖r‖² as the methods for least squares see it: r, Jᵀr, products with J, and the Hessian when asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from hvplib.ad.jacobian import LocalJacobian, local_jacobian
from hvplib.errors import DerivativeError
from hvplib.interrupt import Interrupt
from hvplib.operators.base import Operator
from hvplib.operators.curvature import HessianOperator
from hvplib.operators.noise import seeded
from hvplib.optim.certificate import Curvature
from hvplib.optim.ending import Ending
from hvplib.optim.evaluation import Limits, Objective, Point
from hvplib.space import Space

__all__ = ["Factor", "Fit", "Squares"]

# Columns of J computed at once.
_CHUNK = 64
# Roundings in r.
_ROUNDINGS = 10.0


@dataclass(frozen=True)
class Factor:
    """R and c with RᵀR = JᵀJ and Rᵀc = Jᵀr, from a QR factorisation of [J r]: never from JᵀJ.

    Attributes:
        R: (min(m, n), n), float64, on the CPU.
        c: (min(m, n),).
        norms: ‖J_j‖ (n,).
        J: (m, n) in the dtype and on the device of the vectors.
    """

    R: Tensor
    c: Tensor
    norms: Tensor
    J: Tensor

    @property
    def scale(self) -> Tensor:
        """‖J_j‖ (n,), 1 where it is zero."""
        return torch.where(self.norms > 0, self.norms, 1.0)

    @classmethod
    def of(cls, J: Tensor, r: Tensor) -> Factor:
        """The factor of a Jacobian (m, n) and a residual (m,)."""
        m, n = J.shape
        joined = torch.cat([J.double(), r.double().unsqueeze(1)], dim=1)
        # Householder's QR is accurate column by column, however differently the columns are scaled.
        small = (torch.linalg.qr(joined, mode="r")[1] if m > n else joined).cpu()
        rank = min(m, n)
        return cls(small[:rank, :n], small[:rank, n], torch.linalg.vector_norm(small[:, :n], dim=0), J)


class Squares(Operator):
    """∇²f = JᵀJ + Σ r_i ∇²r_i at a point, for f = ½‖r‖².

    Args:
        source: Makes what is needed at other points.
        jacobian: r and J at the point.
        primals: The point.

    Attributes:
        value: f(x).
        residual: r(x) (m,).
        norm: ‖r(x)‖.
        flat_gradient: Jᵀr (n,).
    """

    def __init__(self, source: _Source, jacobian: LocalJacobian, primals: Any) -> None:
        n = jacobian.shape[1]
        domain = jacobian.domain
        super().__init__((n, n), domain.dtype, domain.device, symmetric=True, domain=domain)
        self.jacobian = jacobian
        self.primals = primals
        self.residual = jacobian.flat_value
        self.value = self.residual.double().square().sum() / 2
        self.flat_gradient = jacobian.rmatmat(self.residual.unsqueeze(1)).squeeze(1).to(domain.dtype)
        self.norm = float(self.residual.double().norm())
        self.factor: Factor | None = None
        self.rounding: float | None = None
        self.curvature: Curvature | None = None
        self._source = source
        self._hessian: Operator | None = None

    def at(self, primals: Any) -> Squares:
        """The same at another point."""
        return Squares(self._source, self.jacobian.at(primals), primals)

    def dense(self) -> Tensor:
        """J (m, n): min(m, n) products."""
        m, n = self.jacobian.shape
        if m < n:
            return _columns(self.jacobian.rmatmat, self.jacobian.codomain).mT
        return _columns(self.jacobian.matmat, self.jacobian.domain)

    def _matmat_torch(self, X: Tensor) -> Tensor:
        if self._hessian is None:
            self._hessian = self._source.hessian(self.primals)
        return self._hessian._matmat_torch(X)


def _columns(product: Callable[[Tensor], Tensor], space: Space) -> Tensor:
    """The matrix of a linear map of that space."""
    unit = torch.eye(space.size, dtype=space.dtype, device=space.device)
    return torch.cat([product(unit[:, j : j + _CHUNK]) for j in range(0, space.size, _CHUNK)], dim=1)


class _Source:
    """Makes derivatives of one residual function; each kind is proven at the first point only."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self._func = func
        self._proven: HessianOperator | None = None
        self._options: dict[str, Any] = {}

    def first(self, primals: Any) -> Squares:
        # The noise that the Hessian's operator replays for its one batch.
        with seeded(0, 0):
            jacobian = local_jacobian(self._func, primals)
            return Squares(self, jacobian, primals)

    def hessian(self, primals: Any) -> Operator:
        if self._proven is not None:
            return self._proven.at(primals)
        try:
            self._proven = HessianOperator(self._half_squares, primals)
            self._proven @ torch.zeros(self._proven.shape[1], 1, dtype=self._proven.torch_dtype)
        except DerivativeError:
            # Good enough to tell a saddle from a minimum, where torch has no exact second derivative.
            self._proven = HessianOperator(self._half_squares, primals, strategy="finite-difference")
        return self._proven

    def _half_squares(self, *primals: Any) -> Tensor:
        leaves = tree_leaves(self._func(*primals))
        return sum((leaf.square().sum() for leaf in leaves), torch.zeros(())) / 2


class Fit(Objective):
    """The accounts of a least-squares problem.

    Args:
        func: The residual.
        primals: Where to start; copied.
        limits: What may be spent; products with J, Jᵀ and the Hessian count alike.
        interrupt: Where Ctrl-C is noted.
        is_dense: From m and n to whether J is computed whole.

    Attributes:
        shape: (m, n).
        dense: Whether J is computed whole.
        num_jacobian_products: Products with J and Jᵀ.
        num_jacobians: Points at which J was looked at.
        first_norm: ‖r(x_0)‖.
        hidden: Rounding error of r, in norm, where it was measured; else 0.
        largest: The largest ‖J_j‖ (n,) seen so far; None where no J was computed whole.
        lenient: Whether ‖J_j‖ is replaced by that.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        primals: Any,
        limits: Limits,
        interrupt: Interrupt,
        is_dense: Callable[[int, int], bool],
    ) -> None:
        copied = tree_map(lambda leaf: leaf.detach().clone(), primals)
        operator = _Source(func).first(copied)
        self.num_jacobian_products = 0
        self.num_jacobians = 0
        self.hidden = 0.0
        self.largest: Tensor | None = None
        self.lenient = False
        self.shape = operator.jacobian.shape
        self.dense = is_dense(*self.shape)
        self._steepest = 0.0
        super().__init__(cast(HessianOperator, operator), limits, interrupt)
        self.first_norm = operator.norm

    @staticmethod
    def squares(point: Point) -> Squares:
        """What is known of r at a point."""
        return cast(Squares, point.operator)

    def factor(self, point: Point) -> Factor:
        """The dense J at a point, factored: min(m, n) products, once."""
        squares = self.squares(point)
        if squares.factor is None:
            self.spend_jacobian(min(self.shape))
            self.num_jacobians += 1
            squares.factor = factor = Factor.of(squares.dense(), squares.residual)
            self.largest = factor.norms if self.largest is None else self.largest.maximum(factor.norms)
        return squares.factor

    def rounding(self, point: Point) -> float:
        """eps (‖r‖ + ‖|J| |x|‖): what rounding makes of r, about, from that of x alone."""
        squares = self.squares(point)
        if squares.rounding is None:
            if self.dense:
                J = self.factor(point).J
                reach = float(torch.linalg.vector_norm((J.abs() @ point.x.abs().to(J)).double()))
            else:
                reach = self.jacobian_norm(point) * float(point.x.double().norm())
            squares.rounding = self.eps * (reach + squares.norm)
        return squares.rounding

    def jacobian_norm(self, point: Point) -> float:
        """‖J‖ from below, from the products made so far at all points."""
        squares = self.squares(point)
        here = float(point.gradient.double().norm()) / squares.norm if squares.norm > 0 else 0.0
        return max(self._steepest, here)

    def projection(self, point: Point) -> float:
        """max_j |J_jᵀ r| / ‖J_j‖, or ‖Jᵀr‖ / ‖J‖ where J is known by products only."""
        if self.dense:
            factor = self.factor(point)
            scale = factor.scale
            if self.lenient and self.largest is not None:
                scale = scale.maximum(self.largest)
            return float(((factor.R.mT @ factor.c).abs() / scale).max())
        norm = self.jacobian_norm(point)
        return float(point.gradient.double().norm()) / norm if norm > 0 else 0.0

    def decrease(self, point: Point, trial: Point, step: Tensor) -> float:
        """f(x) − f(x + s); from the gradients where rounding hides it, −∞ where the trial is not finite.

        A residual is a difference of larger numbers, and so rounded more coarsely than its own size tells.

        Source: as for `hvplib.optim.decrease`.
        """
        if not trial.finite:
            return -math.inf
        difference = point.value - trial.value
        if abs(difference) > self.noise(point):
            return difference
        return -float(((point.gradient + trial.gradient) * step).sum()) / 2

    def noise(self, point: Point) -> float:
        """What rounding leaves unknown of differences of f near a point."""
        return _ROUNDINGS * self.rounding(point) * self.squares(point).norm

    def stalled(self, point: Point, refuted: float) -> Ending:
        """Why no step lowers f: rounding, or r is not what its derivatives say.

        Args:
            point: Where.
            refuted: The largest decrease that the model promised of a step so short, √eps ‖x‖ at most, that
                the model of a smooth function is right there, and that f did not show.
        """
        return Ending.STAGNATED if refuted <= 100 * self.noise(point) else Ending.NOT_SMOOTH

    def push(self, point: Point, V: Tensor) -> Tensor:
        """J V (m, k)."""
        self.spend_jacobian(V.shape[1])
        pushed = self.squares(point).jacobian.matmat(V)
        if not self.dense:
            growth = torch.linalg.vector_norm(pushed) / torch.linalg.vector_norm(V)
            self._steepest = max(self._steepest, float(growth.nan_to_num(0.0, 0.0)))
        return pushed

    def pull(self, point: Point, U: Tensor) -> Tensor:
        """Jᵀ U (n, k)."""
        self.spend_jacobian(U.shape[1])
        return self.squares(point).jacobian.rmatmat(U)

    def residual(self, point: Point, x: Tensor) -> Tensor:
        """r (m,) at another x (n,), without derivatives."""
        self.check()
        self.num_points += 1
        return self.squares(point).jacobian.at(self.space.unflatten(x)).flat_value

    def spend_jacobian(self, count: int) -> None:
        """Book products with J and Jᵀ."""
        self.spend(count)
        self.num_jacobian_products += count
