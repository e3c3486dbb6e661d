"""Functions of eigenvalues: signs of derivatives, and where they are refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hvplib.estimate.spectral_function import NAMES, interval_of, spectral_function

F64 = torch.float64


def derivatives(f: object, x: float, count: int) -> list[float]:
    """f', f'', ... at x, by autograd."""
    point = torch.tensor(x, dtype=F64, requires_grad=True)
    value, found = f(point), []  # type: ignore[operator]
    for _ in range(count):
        (value,) = torch.autograd.grad(value, point, create_graph=True)
        found.append(float(value.detach()))
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if NAMES[name].signs is not None])
@pytest.mark.parametrize("x", [0.3, 1.0, 4.0])
def test_signs_are_those_of_the_derivatives(name: str, x: float) -> None:
    function = NAMES[name]
    found = derivatives(function.call, x, 6)
    assert function.signs is not None
    even, odd = function.signs
    assert all(math.copysign(1, d) == (odd if order % 2 else even) for order, d in enumerate(found, start=1))


def test_zero_within_rounding() -> None:
    values = torch.tensor([-1e-15, 1.0], dtype=F64)
    assert spectral_function("sqrt")(values, 1e-14).tolist() == [0.0, 1.0]
    for name in ("log", "inv_sqrt", "inverse", "sign"):
        with pytest.raises(ValueError, match="zero to within rounding"):
            spectral_function(name)(values, 1e-14)
    assert spectral_function("inverse")(torch.tensor([-2.0], dtype=F64), 1e-14).tolist() == [-0.5]


def test_your_own() -> None:
    def cube(values: Tensor) -> Tensor:
        return values**3

    function = spectral_function(cube, (1, 1))
    assert function.name == "cube" and function.signs == (1, 1)
    assert function(torch.tensor([2.0])).tolist() == [8.0]
    with pytest.raises(ValueError, match="must be finite on the spectrum of A, got inf at 0"):
        spectral_function(torch.reciprocal)(torch.zeros(1, dtype=F64))


def test_intervals() -> None:
    assert interval_of(None, positive_semidefinite=False) == (None, None)
    assert interval_of(None, positive_semidefinite=True) == (0.0, None)
    assert interval_of((-1, math.inf), positive_semidefinite=True) == (0.0, None)
    assert interval_of((0.5, 2), positive_semidefinite=True) == (0.5, 2.0)
    with pytest.raises(ValueError, match="interval must be two numbers"):
        interval_of((math.nan, 1), positive_semidefinite=False)
