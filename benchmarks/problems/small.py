"""Classical problems with two to five unknowns.

From J. J. Moré, B. S. Garbow, K. E. Hillstrom, Testing unconstrained optimization software, ACM TOMS 7 (1981)
17-41, doi:10.1145/355934.355936 (MGH, with the number there), and from the CUTEst collection: N. I. M. Gould,
D. Orban, Ph. L. Toint, Comput. Optim. Appl. 60 (2015) 545-557, doi:10.1007/s10589-014-9687-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.problems.minimisation import Minimisation, vector

__all__ = ["SMALL", "beale", "brownbs", "helix", "himmelbg", "kowosb", "meyer3", "osbornea", "rosenbr"]


def rosenbr() -> Minimisation:
    """f = 100 (x₂ − x₁²)² + (1 − x₁)²: a curved valley."""

    def func(x: Tensor) -> Tensor:
        return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    return Minimisation("ROSENBR", func, vector(-1.2, 1), 0.0, "MGH 1", 24.2)


def beale() -> Minimisation:
    """f = Σᵢ (yᵢ − x₁ (1 − x₂ⁱ))², y = (1.5, 2.25, 2.625): a narrow valley along x₂ = 1."""
    y = vector(1.5, 2.25, 2.625)

    def func(x: Tensor) -> Tensor:
        powers = torch.stack([x[1], x[1] ** 2, x[1] ** 3])
        return (y - x[0] * (1 - powers)).square().sum()

    return Minimisation("BEALE", func, vector(1, 1), 0.0, "MGH 5", 14.203125)


def helix() -> Minimisation:
    """f = 100 ((x₃ − 10 θ)² + (√(x₁² + x₂²) − 1)²) + x₃², θ the angle of (x₁, x₂) in turns: a helix.

    θ = ¼ − atan2(x₁, x₂) / 2π lies in [−¼, ¾]: it jumps on the negative x₂ axis, like the arctangent of the
    paper (with ½ added where x₁ < 0), and needs no case at x₁ = 0.
    """

    def func(x: Tensor) -> Tensor:
        theta = 0.25 - torch.atan2(x[0], x[1]) / (2 * math.pi)
        radius = (x[0] ** 2 + x[1] ** 2).sqrt()
        return 100 * ((x[2] - 10 * theta) ** 2 + (radius - 1) ** 2) + x[2] ** 2

    return Minimisation("HELIX", func, vector(-1, 0, 0), 0.0, "MGH 7", 2500.0)


def kowosb(last: float = 0.0624) -> Minimisation:
    """f = Σᵢ (yᵢ − x₁ (uᵢ² + uᵢ x₂) / (uᵢ² + uᵢ x₃ + x₄))²: the kinetics of an enzyme.

    Two versions are in use, which differ in the `last` of the u: 0.0625 in the paper (and in NIST's MGH09),
    with the minimum 3.075056e-4; 0.0624 in CUTEst, with the minimum 3.078009e-4.
    """
    y = vector(0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246)
    u = vector(4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, last)

    def func(x: Tensor) -> Tensor:
        return (y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])).square().sum()

    minima = {0.0624: 3.0780094673e-4, 0.0625: 3.0750560385e-4}
    x0, start_value = vector(0.25, 0.39, 0.415, 0.39), 0.0053136153581918 if last == 0.0624 else None
    return Minimisation("KOWOSB", func, x0, minima.get(last), "CUTEst; MGH 15", start_value)


def osbornea() -> Minimisation:
    """f = Σᵢ (yᵢ − x₁ − x₂ exp(−tᵢ x₄) − x₃ exp(−tᵢ x₅))², tᵢ = 10 (i − 1): a sum of exponentials."""
    # fmt: off
    y = vector(
        0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751,
        0.718, 0.685, 0.658, 0.628, 0.603, 0.580, 0.558, 0.538, 0.522, 0.506, 0.490,
        0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411, 0.406,
    )
    # fmt: on
    t = 10 * torch.arange(33, dtype=torch.float64)

    def func(x: Tensor) -> Tensor:
        return (y - x[0] - x[1] * torch.exp(-t * x[3]) - x[2] * torch.exp(-t * x[4])).square().sum()

    return Minimisation("OSBORNEA", func, vector(0.5, 1.5, -1, 0.01, 0.02), 5.4648947e-5, "MGH 17")


def meyer3() -> Minimisation:
    """f = Σᵢ (yᵢ − x₁ exp(x₂ / (tᵢ + x₃)))², tᵢ = 45 + 5 i: a thermistor, scaled very badly."""
    # fmt: off
    y = vector(
        34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872
    )
    # fmt: on
    t = 45 + 5 * torch.arange(1, 17, dtype=torch.float64)

    def func(x: Tensor) -> Tensor:
        return (y - x[0] * torch.exp(x[1] / (t + x[2]))).square().sum()

    # The minimum is that of the same data in NIST's MGH10, to the digits certified there.
    return Minimisation("MEYER3", func, vector(0.02, 4000, 250), 87.945855171, "MGH 10; NIST MGH10")


def himmelbg() -> Minimisation:
    """f = exp(−x₁ − x₂) (2 x₁² + 3 x₂²), which falls to 0 at infinity as well as at its minimum."""

    def func(x: Tensor) -> Tensor:
        return torch.exp(-x[0] - x[1]) * (2 * x[0] ** 2 + 3 * x[1] ** 2)

    source = "CUTEst; Himmelblau (1972), 29"
    return Minimisation("HIMMELBG", func, vector(0.5, 0.5), 0.0, source, 0.4598493014643029)


def brownbs() -> Minimisation:
    """f = (x₁ − 10⁶)² + (x₂ − 2·10⁻⁶)² + (x₁ x₂ − 2)²: scales that differ by twelve orders of magnitude."""

    def func(x: Tensor) -> Tensor:
        return (x[0] - 1e6) ** 2 + (x[1] - 2e-6) ** 2 + (x[0] * x[1] - 2) ** 2

    return Minimisation("BROWNBS", func, vector(1, 1), 0.0, "MGH 4", 999998000003.0)


SMALL: dict[str, Callable[[], Minimisation]] = {
    "ROSENBR": rosenbr,
    "BEALE": beale,
    "HELIX": helix,
    "KOWOSB": kowosb,
    "OSBORNEA": osbornea,
    "MEYER3": meyer3,
    "HIMMELBG": himmelbg,
    "BROWNBS": brownbs,
}
