"""Functions at which methods of second order are known to declare false success, or to hang."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hvplib.optim import Ending

__all__ = ["TRAPS", "Trap"]

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Trap:
    """A function, where to start, and what may be said of it.

    Attributes:
        name: What is awkward.
        func: The function of a vector.
        x0: The start.
        endings: How a minimisation may end.
        values: Values of f that it may end at, to 1e-6; any if empty.
        certificates: What may be said of a success.
    """

    name: str
    func: Function
    x0: tuple[float, ...]
    endings: tuple[Ending, ...] = (Ending.CONVERGED,)
    values: tuple[float, ...] = ()
    certificates: tuple[str, ...] = ("minimum", "undecided")

    def __str__(self) -> str:
        return self.name

    @property
    def start(self) -> Tensor:
        """x0 as a tensor of float64."""
        return torch.tensor(self.x0, dtype=torch.float64)


def _rosenbrock(x: Tensor) -> Tensor:
    return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()


def _saddle(x: Tensor) -> Tensor:
    return x[0] ** 2 - x[1] ** 2 + x[1] ** 4


def _monkey(x: Tensor) -> Tensor:
    return x[0] ** 3 - 3 * x[0] * x[1] ** 2 + (x**2).sum() ** 2


def _factors(x: Tensor) -> Tensor:
    """A matrix of rank one as a product: its saddle is at zero."""
    u, v = x[:3], x[3:]
    target = torch.tensor([[2.0, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=x.dtype)
    return (torch.outer(u, v) - target).square().sum() / 4


def _himmelblau(x: Tensor) -> Tensor:
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


def _network(x: Tensor) -> Tensor:
    """Two hidden units; with equal weights they stay equal, at a saddle."""
    t = torch.linspace(-1, 1, 9, dtype=x.dtype)
    target = torch.tanh(3 * t) - torch.tanh(t)
    return (torch.tanh(t[:, None] * x[:2] + x[2:4]) @ x[4:] - target).square().mean()


def _barrier(x: Tensor) -> Tensor:
    return (x - torch.log(x)).sum()


def _helical(x: Tensor) -> Tensor:
    return torch.exp(x[0]) * torch.cos(x[1]) + x[0] ** 4 + x[1] ** 4 / 10


def _indef(x: Tensor) -> Tensor:
    """CUTEst's: curvature of both signs all the way down."""
    return x.sum() + torch.cos(2 * x[1:-1] - x[-1] - x[0]).sum() / 2


_MINIMUM = ("minimum",)
_UNDECIDED = ("undecided",)
_UNBOUNDED = (Ending.UNBOUNDED,)
_KINK = (Ending.NOT_SMOOTH, Ending.STAGNATED, Ending.MAX_ITER)

TRAPS: tuple[Trap, ...] = (
    # Stationary points that are no minima.
    Trap("saddle, on it", _saddle, (0, 0), values=(-0.25,), certificates=_MINIMUM),
    Trap("saddle, on its ridge", _saddle, (1, 0), values=(-0.25,), certificates=_MINIMUM),
    Trap("saddle, beside its ridge", _saddle, (1, 1e-9), values=(-0.25,), certificates=_MINIMUM),
    Trap("maximum", lambda x: torch.cos(x).sum(), (0, 0, 0), values=(-3,), certificates=_MINIMUM),
    Trap("maximum in all but one", lambda x: x[0] ** 2 + torch.cos(x[1:]).sum(), (1, 0, 0), values=(-2,)),
    Trap("monkey saddle", _monkey, (0, 0), values=(-27 / 256,), certificates=_MINIMUM),
    Trap("third derivatives off the axes", lambda x: (x @ x) ** 2 - x.prod(), (0, 0, 0), values=(-1 / 6912,)),
    Trap("factors of a matrix at zero", _factors, (0,) * 6, values=(0,)),
    Trap("factors on the ridge of the saddle", _factors, (0, 1, 0, 0, 0, 1), values=(0,)),
    Trap(
        "hidden units that are equal", _network, (1, 1, 0.5, 0.5, 1, 1), (Ending.CONVERGED, Ending.MAX_ITER)
    ),
    Trap("Himmelblau's maximum", _himmelblau, (-0.270845, -0.923039), values=(0,), certificates=_MINIMUM),
    Trap("a saddle far from one", lambda x: 1e8 * _saddle(x / 1e4), (0, 0), values=(-0.25e8,)),
    Trap("weak negative curvature", lambda x: x[0] ** 2 + 1e-4 * (x[1] ** 4 - x[1] ** 2), (1, 0)),
    # No curvature where there is slope, and neither.
    Trap("slope without curvature", lambda x: (x**4 - x).sum(), (0,), values=(-3 / 4 ** (4 / 3),)),
    Trap("inflection on the way", lambda x: (x**4 / 4 + x**3 / 3).sum(), (1,), values=(-1 / 12,)),
    Trap("inflection, on it", lambda x: (x**4 / 4 + x**3 / 3).sum(), (0,), values=(-1 / 12,)),
    Trap("quartic", lambda x: (x**4).sum(), (1, 2), values=(0,), certificates=_UNDECIDED),
    Trap("constant", lambda x: (0 * x).sum() + 5, (1, 2), values=(5,), certificates=_UNDECIDED),
    Trap(
        "valley of minima", lambda x: (x[0] * x[1] - 1) ** 2, (3, 0.1), values=(0,), certificates=_UNDECIDED
    ),
    Trap(
        "Powell's singular function",
        lambda x: (
            (x[0] + 10 * x[1]) ** 2
            + 5 * (x[2] - x[3]) ** 2
            + (x[1] - 2 * x[2]) ** 4
            + 10 * (x[0] - x[3]) ** 4
        ),
        (3, -1, 0, 1),
        values=(0,),
    ),
    # Without bound.
    Trap("linear", lambda x: x.sum(), (0, 0), _UNBOUNDED),
    Trap("cubic", lambda x: (x**3).sum(), (1,), _UNBOUNDED),
    Trap("saddle without bound", lambda x: x[0] ** 2 - x[1] ** 2, (1, 0), _UNBOUNDED),
    Trap("concave", lambda x: -(x**2).sum(), (0, 0), _UNBOUNDED),
    Trap("exponential fall", lambda x: x[0] - torch.exp(x[1]), (0, 0), _UNBOUNDED),
    Trap("INDEF", _indef, tuple(i / 21 for i in range(1, 21)), _UNBOUNDED),
    # Not smooth.
    Trap("kink", lambda x: (x - 0.3).abs().sum() + (x**2).sum() / 10, (1, -2), (*_KINK, Ending.CONVERGED)),
    Trap("crease", lambda x: x[0].abs() + 3 * (x[1] - x[0]).abs() + x[1] / 2, (1, 2), _KINK),
    Trap("jump", lambda x: (x**2).sum() + (x[0] > 0.5).to(x.dtype), (2, 1), values=(0,)),
    Trap("jump upwards at the minimum", lambda x: (x**2 + x).sum() + 9 * (x[0] < 0).to(x.dtype), (1,), _KINK),
    # Not finite somewhere.
    Trap("barrier", _barrier, (1e-6, 50), values=(2,), certificates=_MINIMUM),
    Trap(
        "square root of the negative",
        lambda x: (torch.sqrt(x) - 0.1 * x).sum() * -1,
        (4,),
        values=(-2.5,),
        endings=(Ending.CONVERGED, Ending.UNBOUNDED),
    ),
    Trap("NaN beyond a wall", lambda x: (x - torch.log(1 - x)).sum() + (x**2).sum(), (0.9, -30)),
    Trap(
        "NaN before the minimum",
        lambda x: ((x - 1) ** 2).sum() + torch.where(x.sum() > 1, torch.nan, 0.0),
        (0, 0),
        (Ending.NOT_SMOOTH,),
    ),
    Trap("infinite at the start", lambda x: 1 / x.sum(), (0,), (Ending.NON_FINITE,)),
    Trap("NaN at the start", lambda x: torch.log(x).sum(), (-1,), (Ending.NON_FINITE,)),
    Trap("curvature infinite at the minimum", lambda x: x.abs().pow(1.5).sum(), (0, 0), (Ending.NON_FINITE,)),
    Trap(
        "curvature infinite at the start",
        lambda x: (x.abs().pow(1.5) + x).sum(),
        (0, 0),
        (Ending.NON_FINITE,),
    ),
    Trap(
        "fall into a pole",
        lambda x: torch.log(x.abs()).sum(),
        (0.5,),
        (*_UNBOUNDED, *_KINK, Ending.NON_FINITE),
    ),
    # Scales.
    Trap("huge curvature", lambda x: 1e12 * (x - 1).square().sum(), (0, 3), values=(0,)),
    Trap("tiny slope", lambda x: 1e-12 * (x - 1).square().sum(), (0, 3)),
    Trap("far away", lambda x: (x - 1e8).square().sum(), (0,), values=(0,)),
    Trap("large value", lambda x: 1e10 + _rosenbrock(x), (-1.2, 1), values=(1e10,)),
    Trap("curved valley", _rosenbrock, (-1.2, 1, -1.2), certificates=_MINIMUM),
    Trap("exponential and cosine", _helical, (1, 0)),
)


def is_second_order_stationary(trap: Trap, x: Tensor, value: float) -> bool:
    """By the dense Hessian: gradient within 1e-6 max(1, |f|), no eigenvalue below −1e-5 of the largest."""
    gradient = torch.func.grad(trap.func)(x)
    eigenvalues = torch.linalg.eigvalsh(torch.func.hessian(trap.func)(x))
    scale = max(1e-300, float(eigenvalues.abs().max()))
    small = float(gradient.abs().max()) <= 1e-6 * max(1.0, abs(value)) and math.isfinite(value)
    return small and float(eigenvalues[0]) >= -1e-5 * scale
