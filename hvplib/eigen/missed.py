"""Whether eigenvalues were missed: what a second, independent start can say, and how surely.

A residual proves that there is an eigenvalue near θ; that there is none beyond it, no product can prove. A
Krylov space contains one vector of each eigenspace only, so of a repeated eigenvalue it shows one copy, and
it may be blind to an eigenvector that its start hardly contains. What helps is chance: a second start, drawn
at random in the orthogonal complement of what was found, contains every missed eigenvector, and is nearly
orthogonal to one only with a small probability that can be stated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hvplib.eigen.bounds import miss_probability

__all__ = ["BlockEnd", "End", "Shown", "described", "miss_bound", "remade", "resolution_of"]


class Shown(Protocol):
    """What a random start has shown at one end of the spectrum of an operator.

    Of the lower end, everything is negated, so that "largest" is right for both.

    Attributes:
        value: Largest Ritz value μ.
        residual_norm: ‖A y − μ y‖ of its Ritz vector y.
    """

    @property
    def value(self) -> float: ...
    @property
    def residual_norm(self) -> float: ...

    def probability(self, beyond: float) -> float:
        """A bound on the probability that an eigenvalue ≥ `beyond` exists."""
        ...


@dataclass(frozen=True, eq=False)
class End:
    """The same of one vector z, through all restarts.

    Attributes:
        size: n, the dimension of the operator.
        values: Ritz values θ (m,).
        residual_norms: ρ (m,), of their Ritz vectors y.
        given_up: Ritz values (r,) that restarts have thrown away.
        log_scale: Of the factorisation: see `Factorization.log_scale`.
        rounding: A probability below which rounding has its say.
    """

    size: int
    values: Tensor
    residual_norms: Tensor
    given_up: Tensor
    log_scale: float
    rounding: float

    @property
    def value(self) -> float:
        """Largest Ritz value."""
        return float(self.values.max())

    @property
    def residual_norm(self) -> float:
        """Of its Ritz vector."""
        return float(self.residual_norms[int(self.values.argmax())])

    def probability(self, beyond: float) -> float:
        """A bound on the probability that an eigenvalue ≥ `beyond` exists.

        The next vector of the Krylov space is q = p(A) z / ‖z‖ for the polynomial p(λ) = Π (λ − θ_i) / Π β_j
        whose roots are all Ritz values, those given up too, with what each product brought in that was new,
        β_j, in the denominator. So an eigenvector u of λ has the part ⟨u, q⟩ = p(λ) c in it, where c =
        ⟨u, z⟩ / ‖z‖ is its part in the start; and as ⟨u, A y_i⟩ = λ ⟨u, y_i⟩, the part ρ_i p(λ) c / (λ − θ_i)
        in the Ritz vector y_i. Vectors that are orthonormal contain no more than all of u:

            c² p(λ)² (1 + Σ ρ_i² / (λ − θ_i)²) ≤ 1.

        The factor of c² grows with λ beyond all roots. So an eigenvalue ≥ `beyond` means a start that is
        nearly orthogonal to its eigenvector, |c| ≤ 1 / g, with g² the factor at `beyond`; and for z uniform
        on the sphere the probability of |c| ≤ 1 / g is at most √(2 n / π) / g.

        Nothing is assumed of the rest of the spectrum: g is what this start has done to it. Without restarts
        the factor is the sum of the squares of the orthonormal polynomials of z at λ, and no polynomial of
        this degree bounds c better (Szegő, Orthogonal Polynomials, 1939, section 3.4, 10.1090/coll/023). But
        as rounding puts a part of ε / √n of any vector into q, nothing below a few ε is said.
        """
        distances = beyond - self.values
        far = beyond - self.given_up
        if not float(torch.cat([distances, far]).min()) > 0:
            return 1.0
        spread = float((self.residual_norms / distances).square().sum())
        log_polynomial = float(distances.log().sum() + far.log().sum()) - self.log_scale
        log_growth = log_polynomial + 0.5 * math.log1p(spread)
        log_probability = 0.5 * math.log(2 * self.size / math.pi) - log_growth
        return min(1.0, math.exp(min(log_probability, 0.0)) + self.rounding)


@dataclass(frozen=True)
class BlockEnd:
    """The same of a block, of which only the first cycle counts: it contains the Krylov space of one vector.

    Attributes:
        size: n.
        value: Largest Ritz value μ.
        smallest: Smallest Ritz value since the start.
        steps: Products since the start before anything was thrown away.
    """

    size: int
    value: float
    smallest: float
    steps: int

    @property
    def residual_norm(self) -> float:
        """Not known to mean anything for the probability."""
        return math.inf

    def probability(self, beyond: float) -> float:
        """A bound on the probability that an eigenvalue ≥ `beyond` exists.

        By Kuczyński and Woźniakowski 1992 (`miss_probability`), at both ends: but for twice their probability
        for a resolution ε, the spectrum, of width S, reaches beyond each extreme Ritz value by ε S at most,
        so S ≤ w / (1 − 2 ε), where w is what the Ritz values span, and λ_max ≤ μ + g for ε = g / (w + 2 g).
        """
        gap = beyond - self.value
        if gap <= 0:
            return 1.0
        share = gap / (max(self.value - self.smallest, 0.0) + 2 * gap)
        return min(1.0, 2 * miss_probability(self.size, max(self.steps, 1), share))


def described(end: End | BlockEnd) -> list[Any]:
    """What `remade` needs to make it again."""
    return [type(end).__name__, *astuple(end)]


def remade(description: Sequence[Any]) -> End | BlockEnd:
    """The end that is `described` so."""
    name, *fields = description
    return End(*fields) if name == End.__name__ else BlockEnd(*fields)


def miss_bound(ends: Sequence[Shown], beyond: list[float]) -> float:
    """A bound on the probability that there is an eigenvalue beyond the mark at any of the ends."""
    return min(1.0, sum(end.probability(mark) for end, mark in zip(ends, beyond, strict=True)))


def resolution_of(ends: Sequence[Shown], marks: list[float], probability: float, *, scale: float) -> float:
    """How far beyond the marks an eigenvalue has to lie so that it was missed with this probability at most.

    Found by bisection to two digits, between 0 and `scale`; infinite if `scale` is not enough.
    """
    low, high = 0.0, scale
    if scale == 0:  # all that was seen of the operator is zero
        return 0.0
    if not miss_bound(ends, [mark + high for mark in marks]) <= probability:
        return math.inf
    while high - low > 0.01 * high and high > 1e-16 * scale:
        middle = math.sqrt(max(low, 1e-4 * high) * high)
        if miss_bound(ends, [mark + middle for mark in marks]) <= probability:
            high = middle
        else:
            low = middle
    return high
