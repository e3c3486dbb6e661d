"""The Lanczos process in the metric of a preconditioner, with all vectors kept orthogonal."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import hypot
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from hvplib.krylov.columns import checked, column_norms, power_of_two
from hvplib.krylov.inner import Inner
from hvplib.krylov.quadratic_basis import PairedBasis
from hvplib.results.status import Status

__all__ = ["Block", "MetricLanczos"]

Block = Callable[[Tensor], Tensor]

# What is shorter than this many roundings of what it was made from is taken for rounding: products of second
# derivatives lose more digits than products of a matrix.
_ROUNDINGS = 100.0


class _Next(NamedTuple):
    """The vector that is to be multiplied next, v = P u with ‖v‖_M = 1."""

    step: Tensor
    dual: Tensor


class _Measured(NamedTuple):
    """What is left of a vector w outside the basis, and how much of it was inside.

    Attributes:
        dual: w − U Vᵀw (n, 1).
        step: P of it.
        square: Its length squared, in the norm of M⁻¹.
        inside: Vᵀw (count,).
        total: ‖w‖² in the norm of M⁻¹.
    """

    dual: Tensor
    step: Tensor
    square: float
    inside: list[float]
    total: float


class MetricLanczos:
    """H V = U T + β u eᵀ with VᵀU = I, U = M V, M = P⁻¹, T = VᵀH V tridiagonal.

    Begun again by `renew` where it has ended; T has a zero there.

    Args:
        matmat: X ↦ H X, of blocks (n, 1).
        like: A block (n, 1).
        precondition: W ↦ P W.
        inner: Sums over the rows.

    Attributes:
        basis: V and U.
        count: Columns of V.
        dtype: Of the vectors.
        diagonal, couplings: Of T: its diagonal, and for each column the entry with the one before.
        coupling: β.
        num_matvecs: Products made.
        fault: NON_FINITE or INDEFINITE_PRECONDITIONER, if one of them ended the process; None otherwise.
    """

    def __init__(self, matmat: Block, like: Tensor, precondition: Block | None, inner: Inner) -> None:
        self.basis = PairedBasis(like, precondition, inner)
        self.count = 0
        self.coupling = 0.0
        self.num_matvecs = 0
        self.fault: Status | None = None
        self._matmat = matmat
        self._inner = inner
        self.dtype = like.dtype
        self._eps = torch.finfo(like.dtype).eps
        self._least = torch.finfo(like.dtype).tiny / self._eps
        self._scale = 1.0  # power of two that brings products near one
        self._norm = 0.0  # ‖P H‖ from below
        self.diagonal: list[float] = []
        self.couplings: list[float] = []  # with the vector before
        self._next: _Next | None = None

    @property
    def has_next(self) -> bool:
        """Whether there is a vector to multiply."""
        return self._next is not None

    @property
    def T(self) -> Tensor:
        """(count, count), float64, on the CPU."""
        T = torch.diag(torch.tensor(self.diagonal, dtype=torch.float64))
        if self.count > 1:
            beside = torch.tensor(self.couplings[1:], dtype=torch.float64)
            T.diagonal(1).copy_(beside)
            T.diagonal(-1).copy_(beside)
        return T

    @property
    def following(self) -> Tensor | None:
        """u (n, 1), if there is a vector to multiply."""
        return None if self._next is None else self._next.dual

    def begin(self, g: Tensor) -> float:
        """Start from P g; gives ‖g‖ in the norm of M⁻¹. g is overwritten."""
        measured = self._outside(g, 0)
        if self._sound(measured, floor=0.0) and measured.square == 0:
            self.fault = Status.INDEFINITE_PRECONDITIONER  # as g is not zero
        return self._follow(measured) if self.fault is None else 0.0

    def renew(self, start: Tensor) -> None:
        """Go on from the part of `start` (n, 1) outside the basis, if there is any."""
        measured = self._outside(start.clone(), self.count)
        if not self._sound(measured) or measured.square <= (_ROUNDINGS * self._eps) ** 2 * measured.total:
            return
        self._follow(measured)

    def expand(self) -> None:
        """One product: T and β grow, or `fault` says why not. Needs `has_next`."""
        assert self._next is not None
        v = self._next.step
        product = checked("matmat", self._matmat(v), v)
        self.num_matvecs += 1
        self.basis.put(self.count, v, self._next.dual)
        measured = self._in_range(product)
        norm = max(self._norm, math.sqrt(measured.total) / self._scale)
        if not self._sound(measured, floor=self._eps * (norm * self._scale) ** 2):
            return
        self.count += 1
        self.diagonal.append(measured.inside[-1] / self._scale)
        self.couplings.append(self.coupling)
        self._norm, self.coupling, self._next = norm, 0.0, None
        if measured.square > (_ROUNDINGS * self._eps * norm * self._scale) ** 2:
            self.coupling = self._follow(measured) / self._scale

    def _in_range(self, product: Tensor) -> _Measured:
        """What is outside of a product, scaled so that its square does not leave the range of the dtype."""
        after, likely = self.count + 1, max(self.count - 1, 0)
        measured = self._outside(product * self._scale, after, likely)
        if self._least <= measured.total < math.inf:
            return measured
        norm = column_norms(self._inner, product)[0]
        if not 0 < norm < math.inf:
            return measured
        self._scale = power_of_two(norm, product.dtype)
        return self._outside(product * self._scale, after, likely)

    def _outside(self, w: Tensor, count: int, likely: int = 0) -> _Measured:
        """Take from w, in place, its part in the first `count` columns, most of it in those from `likely`."""
        firsts = (likely, 0) if count else ()
        measured = self._measured(w, [self.basis.project_out(w, first, count) for first in firsts], count)
        others = hypot(*measured.inside[:likely])
        if others * others > measured.square / 4:
            # There was more of the other columns than the recurrence knows: one pass was not enough for them.
            again = self._measured(w, [self.basis.project_out(w, 0, count)], count)
            inside = list(map(add, measured.inside, again.inside))
            measured = again._replace(inside=inside, total=_total(inside, again.square))
        return measured

    def _measured(self, w: Tensor, taken: list[Tensor], count: int) -> _Measured:
        """What is left, after passes that took out so much of the last columns, the last pass of all."""
        step = self.basis.preconditioned(w)
        # One transfer of all that decides how to go on.
        numbers = torch.cat([*taken, self._inner(w, step)]).to("cpu", torch.float64).flatten().tolist()
        inside, square = numbers[-1 - count : -1], numbers[-1]
        before = numbers[: -1 - count]
        for i, coefficient in enumerate(before, start=count - len(before)):
            inside[i] += coefficient
        return _Measured(w, step, square, inside, _total(inside, square))

    def _sound(self, measured: _Measured, floor: float = math.inf) -> bool:
        """Whether the numbers are finite, and the square above −floor; if not, `fault` is set."""
        if not math.isfinite(measured.total):
            self.fault = Status.NON_FINITE
        elif measured.square < -floor:
            self.fault = Status.INDEFINITE_PRECONDITIONER
        return self.fault is None

    def _follow(self, measured: _Measured) -> float:
        """Multiply with what is outside next; its length in the norm of M⁻¹."""
        length = math.sqrt(measured.square)
        # The preconditioner may have returned its argument: v comes first, and is a copy.
        step = measured.step / length
        self._next = _Next(step, step if measured.step is measured.dual else measured.dual.div_(length))
        return length


def _total(inside: list[float], square: float) -> float:
    """‖w‖² of a vector with these coefficients inside, and so much outside."""
    length = hypot(*inside)
    return length * length + abs(square)
