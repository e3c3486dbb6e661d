"""A record is believed only where the function gives its bits, at points where a difference shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten

from hvplib.ad.beside import Beside
from hvplib.ad.derivatives import looks
from hvplib.ad.guard import derivative
from hvplib.ad.leaves import fresh
from hvplib.ad.objective import Objective
from hvplib.ad.randomness import NoRandomness
from hvplib.ad.trace.second_order import SecondOrder
from tests.ad.problems import F64, Cube, normal

ZERO = torch.zeros(3, dtype=F64)


def beside(func: Callable[..., Tensor], *, at: Tensor | None = None) -> Beside:
    x = normal(3, seed=1) if at is None else at

    def compute(x: Tensor, v: Tensor) -> Sequence[Tensor]:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            value = func(x)
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            (product,) = torch.autograd.grad(gradient, x, v)
        return [value.reshape(()), gradient, product]

    objective = Objective(func, tree_flatten((x,))[1], noise=NoRandomness())
    value = objective([fresh(x)], "plain")
    return Beside(SecondOrder(compute, [x], [], [normal(3, seed=2)]), looks(objective, value), [x])


def shape(of: Beside, func: Callable[..., Any], x: Tensor) -> torch.Size | None:
    with derivative():
        return of.shape(func, [x], [])


def square(x: Tensor) -> Tensor:
    return (x**2).sum()


def test_the_function_itself_is_known_again() -> None:
    assert shape(beside(square), square, normal(3, seed=3)) == ()
    func = lambda x: square(x).reshape(1, 1)  # noqa: E731
    assert shape(beside(func), func, normal(3, seed=3)) == (1, 1)


@pytest.mark.parametrize("x", [ZERO, normal(3, seed=3)], ids=["zero", "elsewhere"])
def test_another_function_is_told_where_the_value_is_the_same(x: Tensor) -> None:
    of = beside(square)
    assert shape(of, lambda x: 5 * square(x), x) is None
    assert shape(of, lambda x: square(x) + 1e-12 * x.sum(), x) is None


@pytest.mark.parametrize(
    "func",
    [
        lambda x: x.detach() @ x,
        lambda x: square(torch.empty_like(x).copy_(x)),
        lambda x: square(x) * float(x[0] / x[0].detach()),
        lambda x: square(x) if x[0] < 7 else x.sum(),
        lambda x: [square(x)],
        lambda x: torch.stack([square(x), square(x)]),
        lambda x: square(x).float(),
        lambda x: torch.linalg.cholesky(-torch.eye(3)).sum() + square(x),
    ],
    ids=["stop-gradient", "a copy", "number", "branch", "container", "vector", "dtype", "raises"],
)
def test_the_same_value_by_other_means_is_not_believed(func: Any) -> None:
    assert shape(beside(square), func, normal(3, seed=3)) is None


def test_custom_functions_and_hooks_are_not_believed() -> None:
    of = beside(lambda x: (x**3).sum())
    x = normal(3, seed=3)
    assert shape(of, lambda x: (x**3).sum(), x) == ()
    assert shape(of, lambda x: Cube.apply(x).sum(), x) is None

    def hooked(x: Tensor) -> Tensor:
        y = x**3
        y.register_hook(lambda g: None)
        return y.sum()

    assert shape(of, hooked, x) is None


def test_where_the_result_is_to_carry_a_graph_it_is_left_to_others() -> None:
    factor = torch.ones((), dtype=F64, requires_grad=True)
    func = lambda x: factor * square(x)  # noqa: E731
    of = beside(func)
    assert shape(of, func, normal(3, seed=3)) is None
    with torch.no_grad():
        assert shape(of, func, normal(3, seed=3)) == ()


@pytest.mark.parametrize(
    ("func", "evaluations"),
    [(square, 1), (lambda x: torch.linalg.cholesky(x.exp().diag()).sum(), 2)],
    ids=["arithmetic", "may raise"],
)
def test_where_it_may_matter_the_point_is_looked_at_too(func: Any, evaluations: int) -> None:
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x)
        return func(x)

    x = normal(3, seed=3)
    assert shape(beside(func), watched, x) == ()
    assert len(seen) == evaluations
    assert not torch.equal(seen[0], x) and (seen[0] - x).norm() < 1e-2 * x.norm()
    assert evaluations == 1 or torch.equal(seen[1], x)


def test_a_point_beside_which_there_is_no_number_is_looked_at_itself() -> None:
    func = lambda x: x.log().sum()  # noqa: E731
    of = beside(func, at=normal(3, seed=1).abs() + 1)
    assert shape(of, func, torch.full((3,), 1e-9, dtype=F64)) == ()
    assert shape(of, lambda x: 2 * func(x), torch.full((3,), 1e-9, dtype=F64)) is None


def test_a_function_that_raises_beside_the_point_is_not_believed() -> None:
    one = torch.ones(3, dtype=F64)
    func = lambda x: F.binary_cross_entropy(x, one)  # noqa: E731
    assert shape(beside(func, at=0.5 * one), func, one - 1e-9) is None
