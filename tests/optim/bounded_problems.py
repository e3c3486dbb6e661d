"""Problems with bounds alone, and what is known of their solutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["HOCK_SCHITTKOWSKI", "Bounded", "Quadratic", "random_quadratic"]

INF = math.inf


@dataclass(frozen=True)
class Bounded:
    """A problem of W. Hock, K. Schittkowski 1981, Test examples for nonlinear programming codes.

    Attributes:
        name: Their number.
        func: f.
        x0: Their start.
        bounds: (l, u).
        minima: The value of the global minimum, and those of other local ones.
    """

    name: str
    func: Callable[[Tensor], Tensor]
    x0: tuple[float, ...]
    bounds: tuple[Any, Any]
    minima: tuple[float, ...]

    def __str__(self) -> str:
        return self.name


def _rosenbrock(x: Tensor) -> Tensor:
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def _exponentials(x: Tensor) -> Tensor:
    y = 0.01 * torch.arange(1, 100, dtype=x.dtype)
    u = 25 + (-50 * y.log()) ** (2 / 3)
    return (((-((u - x[1]) ** x[2]) / x[0]).exp() - y) ** 2).sum()


def _wood(x: Tensor) -> Tensor:
    return (
        _rosenbrock(x[:2]) + 90 * (x[3] - x[2] ** 2) ** 2 + (1 - x[2]) ** 2
        + 10.1 * ((x[1] - 1) ** 2 + (x[3] - 1) ** 2) + 19.8 * (x[1] - 1) * (x[3] - 1)
    )  # fmt: skip


def _logarithms(x: Tensor) -> Tensor:
    return ((x - 2).log() ** 2 + (10 - x).log() ** 2).sum() - x.prod() ** 0.2


HOCK_SCHITTKOWSKI = (
    Bounded("HS1", _rosenbrock, (-2, 1), ([-INF, -1.5], None), (0.0,)),
    Bounded("HS2", _rosenbrock, (-2, 1), ([-INF, 1.5], None), (0.0504261879, 4.9412293180)),
    Bounded("HS3", lambda x: x[1] + 1e-5 * (x[1] - x[0]) ** 2, (10, 1), ([-INF, 0], None), (0.0,)),
    Bounded("HS4", lambda x: (x[0] + 1) ** 3 / 3 + x[1], (1.125, 0.125), ([1, 0], None), (8 / 3,)),
    Bounded(
        "HS5", lambda x: torch.sin(x.sum()) + (x[0] - x[1]) ** 2 - 1.5 * x[0] + 2.5 * x[1] + 1,
        (0, 0), ([-1.5, -3], [4, 3]), (-math.sqrt(3) / 2 - math.pi / 3,),
    ),
    Bounded("HS25", _exponentials, (100, 12.5, 3), ([0.1, 0, 0], [100, 25.6, 5]), (0.0,)),
    Bounded("HS38", _wood, (-3, -1, -3, -1), (-10, 10), (0.0,)),
    Bounded("HS45", lambda x: 2 - x.prod() / 120, (2,) * 5, (0, [1, 2, 3, 4, 5]), (1.0,)),
    Bounded("HS110", _logarithms, (9,) * 10, (2.001, 9.999), (-45.77846971,)),
)  # fmt: skip


@dataclass(frozen=True)
class Quadratic:
    """½ xᵀH x + cᵀx over a box.

    Attributes:
        H: (n, n), symmetric.
        c: (n,).
        lower, upper: The box (n,); some bounds infinite if H is positive definite, some equal.
        x0: A start, perhaps outside (n,).
    """

    H: np.ndarray[Any, Any]
    c: np.ndarray[Any, Any]
    lower: np.ndarray[Any, Any]
    upper: np.ndarray[Any, Any]
    x0: np.ndarray[Any, Any]

    def __call__(self, x: Tensor) -> Tensor:
        assert bool((x.detach() >= torch.from_numpy(self.lower)).all()), "evaluated outside"
        assert bool((x.detach() <= torch.from_numpy(self.upper)).all()), "evaluated outside"
        return x @ torch.from_numpy(self.H) @ x / 2 + torch.from_numpy(self.c) @ x

    def gradient(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """H x + c."""
        return np.asarray(self.H @ x + self.c)


def random_quadratic(seed: int, *, convex: bool) -> Quadratic:
    """Up to 25 unknowns, a condition number of up to 1e4, a tenth of the variables fixed."""
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 26))
    Q = np.linalg.qr(generator.normal(size=(n, n)))[0]
    d = 10 ** generator.uniform(-2, 2, size=n)
    if not convex:
        d *= generator.choice([-1, 1], size=n)
    H = (Q * d) @ Q.T
    lower, upper = -generator.uniform(0, 1, n), generator.uniform(0, 1, n)
    if convex:
        lower[generator.random(n) < 0.2] = -INF
        upper[generator.random(n) < 0.2] = INF
    fixed = generator.random(n) < 0.1
    lower[fixed] = upper[fixed] = 0.3
    return Quadratic((H + H.T) / 2, 10 * generator.normal(size=n), lower, upper, generator.normal(size=n))
