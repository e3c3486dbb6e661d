"""Nonlinear regressions with certified answers: the Statistical Reference Datasets of NIST.

Minimise the residual sum of squares |r(b)|², rᵢ = yᵢ − model(b, xᵢ). Parameters, their standard deviations
√(s² ((JᵀJ)⁻¹)ⱼⱼ), s² = |r|² / (m − n), and the residual sum of squares are certified to eleven digits.
There are two starts, the first far from the answer, the second near it.
"""

from __future__ import annotations

import configparser
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.problems.minimisation import Minimisation

__all__ = ["NIST", "Regression"]

_FILE = Path(__file__).parent / "data" / "nist_strd.ini"

Model = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Regression:
    """Data, a model and the certified answer.

    Attributes:
        name: NIST's name of the dataset.
        difficulty: "lower", "average" or "higher", as NIST judges it.
        model: (b (n,), x (m,)) -> the predicted y (m,).
        x: Predictor (m,), float64.
        y: Response (m,), float64.
        starts: The two starts, the rows of (2, n).
        parameters: Certified parameters (n,).
        deviations: Certified standard deviations of the parameters (n,).
        residual_sum_of_squares: Certified |r|² at the parameters.
    """

    name: str
    difficulty: str
    model: Model
    x: Tensor
    y: Tensor
    starts: Tensor
    parameters: Tensor
    deviations: Tensor
    residual_sum_of_squares: float

    def residual(self, b: Tensor) -> Tensor:
        """Return r (m,) at the parameters b (n,)."""
        return self.y - self.model(b, self.x)

    def minimisation(self, start: int) -> Minimisation:
        """Return |r|² as a function to minimise from start 1 or 2."""

        def func(b: Tensor) -> Tensor:
            return self.residual(b).square().sum()

        name = f"{self.name}, start {start}"
        return Minimisation(
            name, func, self.starts[start - 1].clone(), self.residual_sum_of_squares, "NIST StRD"
        )


def _saturation(b: Tensor, x: Tensor) -> Tensor:
    return b[0] * (1 - torch.exp(-b[1] * x))


def _chwirut(b: Tensor, x: Tensor) -> Tensor:
    return torch.exp(-b[0] * x) / (b[1] + b[2] * x)


def _lanczos(b: Tensor, x: Tensor) -> Tensor:
    return b[0] * torch.exp(-b[1] * x) + b[2] * torch.exp(-b[3] * x) + b[4] * torch.exp(-b[5] * x)


def _power(b: Tensor, x: Tensor) -> Tensor:
    return b[0] * x ** b[1]


def _roszman(b: Tensor, x: Tensor) -> Tensor:
    return b[0] - b[1] * x - torch.atan(b[2] / (x - b[3])) / math.pi


def _osborne(b: Tensor, x: Tensor) -> Tensor:
    return b[0] + b[1] * torch.exp(-x * b[3]) + b[2] * torch.exp(-x * b[4])


def _kowalik(b: Tensor, x: Tensor) -> Tensor:
    return b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3])


def _meyer(b: Tensor, x: Tensor) -> Tensor:
    return b[0] * torch.exp(b[1] / (x + b[2]))


def _cubic_over_cubic(b: Tensor, x: Tensor) -> Tensor:
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


def _ratkowsky(b: Tensor, x: Tensor) -> Tensor:
    return b[0] / (1 + torch.exp(b[1] - b[2] * x)) ** (1 / b[3])


def _eckerle(b: Tensor, x: Tensor) -> Tensor:
    return b[0] / b[1] * torch.exp(-0.5 * ((x - b[2]) / b[1]) ** 2)


_MODELS: dict[str, Model] = {
    "Misra1a": _saturation,
    "Chwirut2": _chwirut,
    "Lanczos3": _lanczos,
    "DanWood": _power,
    "Roszman1": _roszman,
    "MGH17": _osborne,
    "MGH09": _kowalik,
    "MGH10": _meyer,
    "Thurber": _cubic_over_cubic,
    "BoxBOD": _saturation,
    "Rat43": _ratkowsky,
    "Eckerle4": _eckerle,
}


def _columns(text: str) -> Tensor:
    """Return the columns of a table as the rows of a tensor."""
    rows = [[float(entry) for entry in line.split()] for line in text.strip().splitlines()]
    return torch.tensor(rows, dtype=torch.float64).T.contiguous()


def _read() -> dict[str, Regression]:
    file = configparser.ConfigParser()
    file.read_string(_FILE.read_text())
    regressions = {}
    for name, model in _MODELS.items():
        section = file[name]
        far, near, parameters, deviations = _columns(section["parameters"])
        y, x = _columns(section["data"])
        regressions[name] = Regression(
            name,
            section["difficulty"],
            model,
            x,
            y,
            torch.stack([far, near]),
            parameters,
            deviations,
            float(section["residual_sum_of_squares"]),
        )
    return regressions


NIST: dict[str, Regression] = _read()
