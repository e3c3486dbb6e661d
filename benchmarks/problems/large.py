"""Classical problems with any number of unknowns, sums of many small terms.

As in the CUTEst collection: N. I. M. Gould, D. Orban, Ph. L. Toint, CUTEst: a constrained and unconstrained
testing environment with safe threads, Comput. Optim. Appl. 60 (2015) 545-557, doi:10.1007/s10589-014-9687-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.problems.minimisation import Minimisation

__all__ = [
    "LARGE",
    "arwhead",
    "bdqrtic",
    "cragglvy",
    "dixmaanb",
    "engval1",
    "freuroth",
    "genrose",
    "indef",
    "liarwhd",
    "msqrtals",
    "nondia",
    "tridia",
    "woods",
]

# By name and n. Where the minimum depends on n: what Newton's method reaches from the start in float64,
# which agrees with CUTEst's to all the digits that are given there (five).
_MINIMA = {
    ("BDQRTIC", 1000): 3983.8179506,
    ("CRAGGLVY", 1000): 336.4231479,
    ("ENGVAL1", 5000): 5548.6684194,
    ("FREUROTH", 5000): 608159.18905,
}
# f(x0) in CUTEst. (The entries of MSQRTALS are rounded to about ten digits there.)
_START_VALUES = {
    ("GENROSE", 500): 1870.0351331704708,
    ("WOODS", 4000): 19192000.0,
    ("ARWHEAD", 5000): 14997.0,
    ("BDQRTIC", 1000): 225096.0,
    ("LIARWHD", 5000): 2925000.0,
    ("ENGVAL1", 5000): 294941.0,
    ("TRIDIA", 1000): 500499.0,
    ("DIXMAANB", 3000): 47242.0,
    ("MSQRTALS", 529): 2938.322927755354,
    ("FREUROTH", 5000): 5048556.5,
}


def genrose(n: int = 500) -> Minimisation:
    """f = 1 + Σ_{i≥2} 100 (xᵢ − xᵢ₋₁²)² + (xᵢ − 1)²: Rosenbrock's valley, n − 1 times in a row."""

    def func(x: Tensor) -> Tensor:
        return 1 + (100 * (x[1:] - x[:-1] ** 2) ** 2 + (x[1:] - 1) ** 2).sum()

    source = "CUTEst; Nash (1984), SIAM J. Numer. Anal. 21, 770-788"
    return _minimisation("GENROSE", func, _ramp(n), source, minimum=1.0)


def woods(n: int = 4000) -> Minimisation:
    """f = Σ 100 (b − a²)² + (1 − a)² + 90 (d − c²)² + (1 − c)² + 10 (b + d − 2)² + (b − d)² / 10.

    Wood's function (MGH 14) of (x₁, x₂, x₃, x₄), (x₅, x₆, x₇, x₈), ...; near its path lies a saddle.
    """

    def func(x: Tensor) -> Tensor:
        a, b, c, d = x.view(-1, 4).unbind(1)
        valleys = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
        return (valleys + 10 * (b + d - 2) ** 2 + 0.1 * (b - d) ** 2).sum()

    start = _full(n, -1.0)
    start[::2] = -3.0
    return _minimisation("WOODS", func, start, "CUTEst; MGH 14", minimum=0.0)


def nondia(n: int = 5000) -> Minimisation:
    """f = (x₁ − 1)² + Σ_{i≥2} 100 (x₁ − xᵢ₋₁²)²; the last unknown does not occur, so ∇²f is singular."""

    def func(x: Tensor) -> Tensor:
        return (x[0] - 1) ** 2 + 100 * (x[0] - x[:-1] ** 2).square().sum()

    return _minimisation("NONDIA", func, _full(n, -1.0), "CUTEst; Shanno (1978)", minimum=0.0)


def arwhead(n: int = 5000) -> Minimisation:
    """f = Σ_{i<n} (xᵢ² + xₙ²)² − 4 xᵢ + 3: an arrowhead Hessian, singular at the minimum."""

    def func(x: Tensor) -> Tensor:
        return ((x[:-1] ** 2 + x[-1] ** 2) ** 2 - 4 * x[:-1] + 3).sum()

    source = "CUTEst; Conn, Gould, Lescrenier, Toint (1988), 55"
    return _minimisation("ARWHEAD", func, _full(n, 1.0), source, minimum=0.0)


def bdqrtic(n: int = 1000) -> Minimisation:
    """f = Σ_{i≤n−4} (3 − 4 xᵢ)² + (xᵢ² + 2 xᵢ₊₁² + 3 xᵢ₊₂² + 4 xᵢ₊₃² + 5 xₙ²)²: banded with a border."""

    def func(x: Tensor) -> Tensor:
        s = x**2
        quartic = s[:-4] + 2 * s[1:-3] + 3 * s[2:-2] + 4 * s[3:-1] + 5 * s[-1]
        return ((3 - 4 * x[:-4]) ** 2 + quartic**2).sum()

    source = "CUTEst; Conn, Gould, Lescrenier, Toint (1988), 61"
    return _minimisation("BDQRTIC", func, _full(n, 1.0), source)


def cragglvy(n: int = 1000) -> Minimisation:
    """f = Σ over a, b, c, d of (eᵃ − b)⁴ + 100 (b − c)⁶ + (tan(c − d) + c − d)⁴ + a⁸ + (d − 1)².

    The n / 2 − 1 quadruples overlap by two: (x₁, x₂, x₃, x₄), (x₃, x₄, x₅, x₆), ...
    """

    def func(x: Tensor) -> Tensor:
        a, b, c, d = x[:-2:2], x[1:-2:2], x[2::2], x[3::2]
        difference = c - d
        tangent = (torch.tan(difference) + difference) ** 4
        return ((torch.exp(a) - b) ** 4 + 100 * (b - c) ** 6 + tangent + a**8 + (d - 1) ** 2).sum()

    start = _full(n, 2.0)
    start[0] = 1.0
    return _minimisation("CRAGGLVY", func, start, "CUTEst; Toint (1983), 32")


def liarwhd(n: int = 5000) -> Minimisation:
    """f = Σ 4 (xᵢ² − x₁)² + (xᵢ − 1)²: an arrowhead Hessian, far from its minimum at the start."""

    def func(x: Tensor) -> Tensor:
        return (4 * (x**2 - x[0]) ** 2 + (x - 1) ** 2).sum()

    return _minimisation("LIARWHD", func, _full(n, 4.0), "CUTEst; Li (1988)", minimum=0.0)


def engval1(n: int = 5000) -> Minimisation:
    """f = Σ_{i<n} (xᵢ² + xᵢ₊₁²)² − 4 xᵢ + 3: convex and tridiagonal, but nearly flat in xₙ."""

    def func(x: Tensor) -> Tensor:
        return ((x[:-1] ** 2 + x[1:] ** 2) ** 2 - 4 * x[:-1] + 3).sum()

    return _minimisation("ENGVAL1", func, _full(n, 2.0), "CUTEst; Toint (1983), 31")


def tridia(n: int = 1000) -> Minimisation:
    """f = (x₁ − 1)² + Σ_{i≥2} i (2 xᵢ − xᵢ₋₁)²: a quadratic with condition number of order n."""
    weights = torch.arange(2, n + 1, dtype=torch.float64)

    def func(x: Tensor) -> Tensor:
        return (x[0] - 1) ** 2 + (weights * (2 * x[1:] - x[:-1]) ** 2).sum()

    return _minimisation("TRIDIA", func, _full(n, 1.0), "CUTEst; Toint (1983), 8", minimum=0.0)


def dixmaanb(n: int = 3000) -> Minimisation:
    """f = 1 + Σ xᵢ² + (Σ xᵢ² (xᵢ₊₁ + xᵢ₊₁²)² + Σ_{i≤2m} xᵢ² xᵢ₊ₘ⁴ + Σ_{i≤m} xᵢ xᵢ₊₂ₘ) / 16, with n = 3m."""
    m = n // 3

    def func(x: Tensor) -> Tensor:
        s = x**2
        neighbours = (s[:-1] * (x[1:] + s[1:]) ** 2).sum()
        blocks = (s[: 2 * m] * s[m:] ** 2).sum()
        return 1 + s.sum() + (neighbours + blocks + x[:m] @ x[2 * m :]) / 16

    return _minimisation("DIXMAANB", func, _full(n, 2.0), "CUTEst; Dixon, Maany (1988)", minimum=1.0)


def msqrtals(n: int = 529) -> Minimisation:
    """f = ‖X X − B B‖², X and B square, B with entries sin(1), sin(4), sin(9), ...; the start is B / 5.

    A dense least-squares problem whose minimum, one of the square roots of a matrix, is conditioned badly.
    """
    side = math.isqrt(n)
    root = torch.sin(torch.arange(1, n + 1, dtype=torch.float64) ** 2).view(side, side)
    target = root @ root

    def func(x: Tensor) -> Tensor:
        matrix = x.view(side, side)
        return (matrix @ matrix - target).square().sum()

    source = "CUTEst; Buckley (1989), 201, of Nocedal and Liu"
    return _minimisation("MSQRTALS", func, 0.2 * root.flatten(), source, minimum=0.0)


def freuroth(n: int = 5000) -> Minimisation:
    """f = Σ_{i<n} (xᵢ − 2 y + (5 − y) y² − 13)² + (xᵢ − 14 y + (1 + y) y² − 29)², y = xᵢ₊₁.

    The minimum is a local one; with n = 2 another is 0.
    """

    def func(x: Tensor) -> Tensor:
        x, y = x[:-1], x[1:]
        first = x - 2 * y + (5 - y) * y**2 - 13
        second = x - 14 * y + (1 + y) * y**2 - 29
        return (first**2 + second**2).sum()

    start = _full(n, 0.0)
    start[0], start[1] = 0.5, -2.0
    return _minimisation("FREUROTH", func, start, "CUTEst; MGH 2, extended")


def indef(n: int = 1000) -> Minimisation:
    """f = Σ xᵢ + ½ Σ_{1<i<n} cos(2 xᵢ − xₙ − x₁): unbounded below; nowhere convex at the start."""

    def func(x: Tensor) -> Tensor:
        return x.sum() + 0.5 * torch.cos(2 * x[1:-1] - x[-1] - x[0]).sum()

    return _minimisation("INDEF", func, _ramp(n), "CUTEst, with ALPHA = 0.5; Gould (1992)", minimum=-math.inf)


def _minimisation(
    name: str, func: Callable[[Tensor], Tensor], x0: Tensor, source: str, *, minimum: float | None = None
) -> Minimisation:
    """Return the problem with what is known of it at this size."""
    key = name, x0.numel()
    return Minimisation(name, func, x0, _MINIMA.get(key, minimum), source, _START_VALUES.get(key))


def _full(n: int, value: float) -> Tensor:
    return torch.full((n,), value, dtype=torch.float64)


def _ramp(n: int) -> Tensor:
    """Return i / (n + 1)."""
    return torch.arange(1, n + 1, dtype=torch.float64) / (n + 1)


LARGE: dict[str, Callable[[], Minimisation]] = {
    "GENROSE": genrose,
    "WOODS": woods,
    "NONDIA": nondia,
    "ARWHEAD": arwhead,
    "BDQRTIC": bdqrtic,
    "CRAGGLVY": cragglvy,
    "LIARWHD": liarwhd,
    "ENGVAL1": engval1,
    "TRIDIA": tridia,
    "DIXMAANB": dixmaanb,
    "MSQRTALS": msqrtals,
    "FREUROTH": freuroth,
}
