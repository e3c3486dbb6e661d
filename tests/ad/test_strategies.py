"""Each way of multiplying, by closed forms, in every mode and under every transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vmap
from torch.utils._pytree import tree_flatten

from hvplib.ad import strategies
from hvplib.ad.guard import derivative
from hvplib.ad.objective import Objective
from hvplib.ad.strategies import (
    Outcome,
    forward_over_reverse,
    functional_forward,
    functional_reverse,
    gradient,
    reverse_over_reverse,
)
from tests.ad.problems import F64, PROBLEMS, Cube, Problem, difference_hessian, directions, normal, relative

WAYS = [forward_over_reverse, reverse_over_reverse, functional_forward, functional_reverse]
PLAIN, FUNCTIONAL = WAYS[:2], WAYS[2:]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda w: w.__name__)
plain_ways = pytest.mark.parametrize("way", PLAIN, ids=lambda w: w.__name__)
functional_ways = pytest.mark.parametrize("way", FUNCTIONAL, ids=lambda w: w.__name__)

X, V, W = normal(3, seed=70), normal(3, seed=71), normal(3, seed=72)


def quartic(x: Tensor) -> Tensor:
    return (x**4).sum()


def outcome(way: Callable[..., Outcome], func: Any, primals: Any, tangents: Any) -> Outcome:
    leaves, spec = tree_flatten(primals)
    vectors = tree_flatten(tangents)[0]
    with derivative():
        return way(Objective(func, spec, functional=way in FUNCTIONAL), leaves, vectors)


@every_way
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_value_gradient_and_product(problem: Problem, way: Any) -> None:
    v = directions(problem.primals)
    got = outcome(way, problem.func, problem.primals, v)
    is_tuple = type(problem.primals) is tuple
    assert (
        relative(got.value, problem.func(*problem.primals) if is_tuple else problem.func(problem.primals))
        < 1e-14
    )
    assert relative(got.product, problem.product(v)) < 1e-13
    leaves, spec = tree_flatten(problem.primals)
    _, slope = gradient(lambda xs: Objective(problem.func, spec)(xs, "plain"), leaves)
    assert relative(got.gradient, slope) < 1e-14
    assert [h.shape for h in got.product] == [x.shape for x in leaves]


@every_way
@pytest.mark.parametrize("norm", ["layer", "batch", "group"])
def test_right_through_normalisation(way: Any, norm: str) -> None:
    """Reverse-over-forward is silently wrong there; it must be none of the ways."""
    data = normal(5, 4, seed=73)

    def func(x: Tensor) -> Tensor:
        h = (data * x).sin() + data
        if norm == "layer":
            h = F.layer_norm(h, (4,))
        elif norm == "batch":
            h = F.batch_norm(h, None, None, training=True)
        else:
            h = F.group_norm(h.T.reshape(1, 4, 5), 2)
        return h.tanh().pow(3).sum()

    x, v = normal(4, seed=74), normal(4, seed=75)
    assert relative(outcome(way, func, x, v).product, difference_hessian(func, x, step=1e-3) @ v) < 1e-9


@every_way
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_in_every_grad_mode(way: Any, mode: Any) -> None:
    with mode():
        got = outcome(way, quartic, X, V)
    assert relative(got.product, 12 * X**2 * V) < 1e-14
    assert not got.detached().product[0].requires_grad


@plain_ways
def test_flags(way: Any) -> None:
    got = outcome(way, quartic, X, V)
    assert not got.vanishes and not got.disconnected and got.facts.reached
    linear = outcome(way, lambda x: x.sum(), X, V)
    assert linear.vanishes and not linear.disconnected
    constant = outcome(way, lambda x: torch.ones((), dtype=F64), X, V)
    assert constant.vanishes and constant.disconnected
    for zero in (linear, constant):
        assert torch.equal(zero.product[0], torch.zeros_like(X))
    captured = torch.ones((), dtype=F64, requires_grad=True)
    assert outcome(way, lambda x: captured * quartic(x), X, V).facts.captured
    assert not got.facts.captured


def test_custom_functions_are_told() -> None:
    assert outcome(reverse_over_reverse, lambda x: Cube.apply(x).sum(), X, V).facts.custom == ("Cube",)
    assert outcome(reverse_over_reverse, quartic, X, V).facts.custom == ()


def test_graphs_for_third_derivatives() -> None:
    x, v = X.clone().requires_grad_(), V.clone().requires_grad_()
    for way in PLAIN:
        leaves, spec = tree_flatten(x)
        with derivative():
            got = way(Objective(quartic, spec), leaves, [v])
        gx, gv = torch.autograd.grad((W * got.product[0]).sum(), (x, v))
        assert relative(gx, 24 * X * V * W) < 1e-13
        assert relative(gv, 12 * X**2 * W) < 1e-13


def test_no_graph_is_kept_without_need() -> None:
    assert not outcome(reverse_over_reverse, quartic, X, V).product[0].requires_grad


@functional_ways
def test_composes_with_transforms(way: Any) -> None:
    def product(x: Tensor, v: Tensor) -> Tensor:
        return outcome(way, quartic, x, v).product[0]

    points, vectors = normal(5, 3, seed=76), normal(5, 3, seed=77)
    assert relative(vmap(product)(points, vectors), 12 * points**2 * vectors) < 1e-14
    assert relative(vmap(product, in_dims=(None, 0))(X, vectors), 12 * X**2 * vectors) < 1e-14
    assert relative(grad(lambda x: W @ product(x, V))(X), 24 * X * V * W) < 1e-14
    assert relative(jvp(lambda x: product(x, V), (X,), (W,))[1], 24 * X * V * W) < 1e-14
    assert (
        relative(grad(lambda x: W @ jvp(lambda y: product(y, V), (x,), (W,))[1])(X), 24 * V * W * W) < 1e-14
    )


def test_forward_keeps_constant_what_autograd_keeps_constant() -> None:
    """`.data` and no_grad do not stop bare forward mode."""

    def func(x: Tensor) -> Tensor:
        with torch.no_grad():
            a = x**2
        return (x.data**2 * a * x.detach() * x**2).sum()

    for way in WAYS:
        assert relative(outcome(way, func, X, V).product, 2 * X**5 * V) < 1e-13


def test_gradient_of_disconnected_and_unused() -> None:
    value, slopes = gradient(lambda xs: torch.ones((), dtype=F64), [X, V])
    assert value == 1 and all(torch.equal(s, torch.zeros(3, dtype=F64)) for s in slopes)
    value, slopes = gradient(lambda xs: quartic(xs[0]), [X, V])
    assert relative(slopes[0], 4 * X**3) < 1e-15 and torch.equal(slopes[1], torch.zeros_like(V))
    assert not value.requires_grad and not slopes[0].requires_grad
    with torch.no_grad():
        assert torch.equal(gradient(lambda xs: quartic(xs[0]), [X])[1][0], slopes[0])


def test_reverse_over_forward_is_not_among_the_ways() -> None:
    assert not [name for name in dir(strategies) if "reverse_over_forward" in name]
