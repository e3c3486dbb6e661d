"""J v and Jᵀu with nothing kept: against dense Jacobians, with the graph freed, and ways given up."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

from hvplib.ad.frugal_jacobian import FrugalJacobian
from hvplib.ad.objective import Objective
from hvplib.errors import DerivativeError
from tests.ad.problems import normal

X = normal(5)


def frugal(func: Any, *points: Tensor) -> FrugalJacobian:
    return FrugalJacobian(Objective(func, tree_flatten(tuple(points))[1]), points)


def outputs(x: Tensor) -> dict[str, Tensor]:
    return {"a": x.exp()[:3], "b": (x * x).sum().reshape(1, 1)}


def test_against_the_dense_jacobian() -> None:
    J = frugal(outputs, X)
    dense = torch.func.jacrev(lambda x: torch.cat([r.reshape(-1) for r in outputs(x).values()]))(X)
    v, u = normal(5, seed=1), {"a": normal(3, seed=2), "b": normal(1, 1, seed=3)}
    pushed = J.push([v])
    torch.testing.assert_close(torch.cat([pushed["a"], pushed["b"].reshape(-1)]), dense @ v)
    assert J.space is None
    expected = dense.mT @ torch.cat([u["a"], u["b"].reshape(-1)])
    with J.pulled() as pull:
        for last in (False, True):
            assert not pull.output["a"].requires_grad and torch.equal(pull.output["a"], X.exp()[:3])
            torch.testing.assert_close(pull.last(tree_leaves(u)) if last else pull(u), [expected])
    assert J.space is not None and J.space.size == 4 and J.graph_nbytes > 0 and J.facts.custom == ()
    torch.testing.assert_close(J.value(), outputs(X))


def test_the_last_pull_frees_the_graph() -> None:
    J = frugal(lambda x: x.exp(), X)
    with J.pulled() as pull:
        seeds = [X.clone()]
        seed, output = weakref.ref(seeds[0]), weakref.ref(pull.output)
        alive: list[bool] = []
        hook = pull._outputs[0].register_hook(lambda _: alive.append(output() is not None))
        (first,) = pull.last(seeds)
        hook.remove()
        torch.testing.assert_close(first, X.exp() * X)
        assert seeds == [] and seed() is None and output() is None and alive == [False]
        with pytest.raises(ValueError, match="longer"):  # nothing is left to pull through
            pull(X)


def test_outputs_that_depend_on_nothing() -> None:
    J = frugal(lambda x, y: (torch.ones(2).double(), y * 2), X, normal(2))
    a, b = J.push([X, X[:2]])
    assert not a.any() and torch.equal(b, 2 * X[:2])
    with J.pulled() as pull:
        found = pull.last([normal(2), normal(2, seed=4)])
    assert not found[0].any()
    torch.testing.assert_close(found[1], 2 * normal(2, seed=4))


def test_what_has_no_derivative_is_named() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 3

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * 3

    J = frugal(Opaque.apply, X)
    with pytest.raises((DerivativeError, RuntimeError), match=r"(?i)opaque|forward|jvp"):
        J.push([X])
