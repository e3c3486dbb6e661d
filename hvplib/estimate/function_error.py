"""How far ‖b‖ Q f(T) e₁ is from f(A) b, from T alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from hvplib.estimate.spectral_function import SpectralFunction, SpectrumError
from hvplib.krylov.lanczos_columns import Recurrence

__all__ = ["End", "FunctionError", "Interval", "Projected", "check_interval", "eigh_tridiagonal"]

# Points nearer to each other, relative to their size, leave too few digits to a quotient of differences.
_APART = 1e-6
# So far outside the Ritz values, relative to their size, the end of the spectrum is taken to be at least.
_OUTWARD = 1e-4
# Constants of rounding errors are small numbers, which no one counts.
_SAFETY = 4.0
# Up to this size LAPACK's dense solver is as fast as that for tridiagonal matrices.
_SMALL = 200

Interval = tuple[float | None, float | None]


class FunctionError(NamedTuple):
    """‖f(A) b − ‖b‖ Q f(T) e₁‖ ≤ truncation + rounding.

    Attributes:
        truncation: Of the Krylov space.
        rounding: What the products and sums may have done.
        certain: Whether `truncation` is a bound, in exact arithmetic, and not an estimate.
    """

    truncation: float
    rounding: float
    certain: bool


class End(NamedTuple):
    """An end of the spectrum, for a prescribed node.

    Attributes:
        x: Where it is, or beyond.
        known: Whether that is certain.
        gauss_certain: Whether the signs of the derivatives hold on all of the spectrum.
    """

    x: float
    known: bool
    gauss_certain: bool


class Projected:
    """f(T) e₁ for one column, and its error.

    With nodes θ_i = λ_i(T) and S their eigenvectors,

        f(A) b − ‖b‖ Q f(T) e₁ = ‖b‖ β h(A) q_{m+1},    h(x) = Σ_i S_mi S_1i (f(x) − f(θ_i)) / (x − θ_i),

    so its norm is at most ‖b‖ β max |h| over an interval that holds the spectrum. Where the derivatives of f
    of each parity have one sign, |h| = β_2 ... β_m |f[θ_1, ..., θ_m, x]| is monotone, and largest at one
    end: the lower one if the signs alternate (1/x, log, √x), the upper one if they agree (exp). Where an end
    that matters is not known, the Ritz values stand in for it, moved by their residual norms, and the bound
    becomes an estimate; and so it does for other functions, of which h is looked at between the Ritz values
    only.

    Args:
        recurrence: T, with at least one step.
        f: The function.
        eps: Of the vectors' dtype.
        interval: What is known of the ends of the spectrum.

    Raises:
        ValueError: f is not defined at a Ritz value, or one lies outside the interval.

    Source: the representation of the error by Cauchy's formula is that of Saad (1992), 10.1137/0729014, and
    Frommer, Güttel, Schweitzer (2014), 10.1137/13093491X.
    """

    def __init__(self, recurrence: Recurrence, f: SpectralFunction, eps: float, interval: Interval) -> None:
        self._recurrence, self._f, self._eps, self._interval = recurrence, f, eps, interval
        self.values, self._vectors = eigh_tridiagonal(recurrence)
        self.first, self._last = self._vectors[0], self._vectors[-1]
        size = float(self.values.abs().max())
        self.slack = f.rounding(eps, size)
        self._size = size
        check_interval(self.values, interval, self.slack)
        self.f_values = f(self.values, self.slack)

    @property
    def coordinates(self) -> Tensor:
        """‖b‖ f(T) e₁ (m,)."""
        coordinates: Tensor = self._vectors @ (self.f_values * self.first)
        return self._recurrence.norm * coordinates

    @property
    def length(self) -> float:
        """Its norm."""
        return self._recurrence.norm * float(torch.linalg.vector_norm(self.f_values * self.first))

    def error(self) -> FunctionError:
        """What there is to say of the iterate."""
        norm, beta = self._recurrence.norm, self._recurrence.coupling
        points, certain = self._points
        slopes, lost = self._slopes(points)
        weights = self._last * self.first
        truncation = norm * beta * float((slopes @ weights).abs().max())
        cancelled = norm * beta * float((lost @ weights.abs()).max())
        # The Fréchet derivative of f in the direction of what rounding does to A, about ε ‖A‖, times b.
        moved = float(torch.linalg.vector_norm(slopes * self.first, dim=1).max())
        rounding = _SAFETY * self._eps * (norm * self._size * moved + self.length) + cancelled
        return FunctionError(truncation, rounding, certain or beta == 0)

    def form_rounding(self) -> float:
        """What rounding may do to bᵀ f(A) b."""
        norm, weights = self._recurrence.norm, self.first.square()
        slopes, _ = self._slopes(self._points[0])
        moved = float((slopes.abs() @ weights).max()) if len(slopes) else 0.0
        return _SAFETY * self._eps * norm**2 * (self._size * moved + float(self.f_values.abs() @ weights))

    def end(self) -> End | None:
        """The node of the Gauss-Radau rule that bounds on the side where Gauss does not, if there is one."""
        points, known = self._points
        if len(points) != 1:
            return None
        return End(float(points[0]), known, not self._f.around_zero or (self._interval[0] or 0.0) >= 0)

    def is_defined(self, x: float) -> bool:
        """Whether f is, at x."""
        return self._f.limit(x) is not None

    def f_of(self, values: Tensor) -> Tensor:
        """f of values that are known as the Ritz values are."""
        return self._f(values, self.slack)

    def _slopes(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """f[x, θ_i] (p, m) for points x (p,), and what cancellation may have done to each."""
        x, nodes = points.unsqueeze(1), self.values.expand(len(points), -1)
        least = (_APART * torch.maximum(x.abs(), nodes.abs())).clamp(min=self.slack or self._eps)
        moved = torch.where((x - nodes).abs() < least, x + least, nodes)
        f_nodes = self.f_values if bool((moved == nodes).all()) else self._f(moved, self.slack)
        f_x, apart = self._f(points, self.slack).unsqueeze(1), x - moved
        lost = _SAFETY * torch.finfo(torch.float64).eps * (f_x.abs() + f_nodes.abs()) / apart.abs()
        return (f_x - f_nodes) / apart, lost

    @cached_property
    def _points(self) -> tuple[Tensor, bool]:
        """Where to look at h, and whether it is nowhere larger."""
        low, high = self._known(0), self._known(1)
        ends = [self._assumed(-1) if low is None else low, self._assumed(1) if high is None else high]
        signs = self._f.signs
        if signs is not None and (not self._f.around_zero or ends[0] > 0):
            end, known = (ends[1], high) if signs[0] == signs[1] else (ends[0], low)
            return torch.tensor([end], dtype=torch.float64), known is not None
        between = (self.values[1:] + self.values[:-1]) / 2
        points = torch.cat([torch.tensor(ends, dtype=torch.float64), between])
        if self._f.around_zero:
            nearest = float(self.values.abs().min()) / 2
            points = torch.cat([points[points.abs() > nearest], points.new_tensor([-nearest, nearest])])
        return points[self._defined(points)], False

    def _known(self, end: int) -> float | None:
        """An end of the interval, if f is defined there, kept apart from the Ritz values."""
        x = self._interval[end]
        if x is None or self._f.limit(x) is None:
            return None
        least, most = (float(value) for value in self.values[[0, -1]])
        x = min(x, least - _OUTWARD * abs(least)) if end == 0 else max(x, most + _OUTWARD * abs(most))
        return max(x, self._f.least) if self._f.closed else x

    def _assumed(self, side: int) -> float:
        """Where the spectrum might end, from the outermost Ritz pair."""
        index = 0 if side < 0 else -1
        value = float(self.values[index])
        residual = self._recurrence.coupling * float(self._last[index].abs())
        moved = value + side * max(residual, _OUTWARD * abs(value), self.slack)
        if side < 0 and value > 0 and self._f.signs is not None:
            moved = max(moved, value / 2)  # not out of the domain
        return max(moved, self._f.least) if self._f.closed else moved

    def _defined(self, points: Tensor) -> Tensor:
        return torch.tensor([self._f.limit(float(x)) is not None for x in points], dtype=torch.bool)


def eigh_tridiagonal(recurrence: Recurrence, steps: int | None = None) -> tuple[Tensor, Tensor]:
    """Eigenvalues of T, ascending, and its eigenvectors as columns."""
    m = recurrence.steps if steps is None else steps
    if m > _SMALL:  # m², where LAPACK's MRRR comes to an end: among copies of Ritz values it may not
        try:
            found = scipy.linalg.eigh_tridiagonal(
                recurrence.alphas[:m], recurrence.betas[: m - 1], lapack_driver="stemr"
            )
        except np.linalg.LinAlgError:
            pass
        else:
            values, vectors = (torch.from_numpy(np.ascontiguousarray(x)) for x in found)
            return values, vectors
    values, vectors = torch.linalg.eigh(recurrence.tridiagonal(m))
    return values, vectors


def check_interval(values: Tensor, interval: Interval, slack: float) -> None:
    """Raise SpectrumError where Ritz values prove that the interval does not hold the spectrum."""
    least, most = float(values.min()), float(values.max())
    compare: list[tuple[str, float, float | None, Callable[[float, float], bool]]] = [
        ("lower", least, interval[0], lambda seen, end: seen < end - slack),
        ("upper", most, interval[1], lambda seen, end: seen > end + slack),
    ]
    for name, seen, end, beyond in compare:
        if end is not None and beyond(seen, end):
            raise SpectrumError(
                f"interval must hold the spectrum of A, but its {name} end {end:.6g} lies inside: A has an "
                f"eigenvalue at {seen:.6g} or beyond (0 stands for an A that is declared positive "
                "semidefinite); correct the interval, or the declaration"
            )
