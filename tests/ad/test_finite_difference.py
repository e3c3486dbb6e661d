"""The strategy "finite-difference": the step of least estimated error, zero for zero, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from hvplib import DerivativeError, hvp
from hvplib.ad.finite_difference import best_difference
from hvplib.ad.guard import derivative
from hvplib.ad.objective import Objective
from tests.ad.problems import F64, CutCube, normal, relative

X, V = normal(4, seed=120), normal(4, seed=121)


def by_difference(func: Any, x: Tensor = X, v: Tensor = V) -> Tensor:
    return hvp(func, x, v, strategy="finite-difference")  # type: ignore[no-any-return]


@pytest.mark.parametrize("frequency", [1, 30, 1000, 20000])
def test_the_step_follows_the_function(frequency: int) -> None:
    """Each frequency has its own best step; what is lost is rounding, eps / (h · frequency)."""
    got = by_difference(lambda x: (frequency * x).sin().sum())
    assert relative(got, -(frequency**2) * (frequency * X).sin() * V) < 1e-5


def test_smooth_functions_to_nine_digits() -> None:
    assert (
        relative(by_difference(lambda x: x.exp().prod()), X.exp().prod() * V.sum() * torch.ones(4, dtype=F64))
        < 1e-9
    )


def test_a_kink_nearby_is_stepped_around() -> None:
    x, v = torch.tensor([1e-4, 0.5], dtype=F64), torch.ones(2, dtype=F64)
    assert (
        relative(by_difference(lambda x: (x.relu() ** 2).sum() + (x**3).sum(), x, v), (2 + 6 * x) * v) < 1e-6
    )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_homogeneous_in_the_tangents(scale: float) -> None:
    assert relative(by_difference(lambda x: (x**4).sum(), X, scale * V), 12 * X**2 * scale * V) < 1e-9


def test_it_knows_its_error() -> None:
    objective = Objective(lambda x: (30 * x).sin().sum(), tree_flatten(X)[1])
    with derivative(), objective.session():
        got = best_difference(objective, [X], [V])
    truth = -900 * (30 * X).sin() * V
    assert float((got.product[0] - truth).norm()) <= 3 * got.error <= 1e-4 * float(truth.norm())


def test_zero_costs_no_step() -> None:
    calls = []
    zero = torch.zeros_like(X)
    assert torch.equal(by_difference(lambda x: calls.append(1) or (x**3).sum(), X, zero), zero)
    assert len(calls) == 1


def test_it_needs_no_second_derivative() -> None:
    assert relative(by_difference(lambda x: CutCube.apply(x).sum()), 6 * X * V) < 1e-9


def test_a_gradient_that_is_not_finite_nearby_is_refused() -> None:
    with pytest.raises(DerivativeError, match="the gradient of func is not finite near primals"):
        by_difference(lambda x: (x * float("nan")).sum())


def test_transforms_are_refused() -> None:
    with pytest.raises(DerivativeError, match=r"chooses its step from values .* torch\.func transform"):
        torch.func.vmap(lambda v: by_difference(lambda x: (x**3).sum(), X, v))(V[None])
