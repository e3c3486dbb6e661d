"""Engines: products, rows and blocks in closed form; which graphs are refused, and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten

from hvplib.ad.engines import GraphEngine, RecomputeEngine
from hvplib.ad.objective import Objective
from hvplib.errors import DerivativeError
from tests.ad.problems import normal, relative

X, Y = normal(3, seed=210), normal(2, seed=211)
V, W = normal(3, seed=212), normal(2, seed=213)
B = normal(3, 2, seed=214)


def objective(func: Callable[..., Tensor], *leaves: Tensor) -> Objective:
    return Objective(func, tree_flatten(tuple(leaves))[1])


def coupled(x: Tensor, y: Tensor) -> Tensor:
    """Σ x³ + xᵀ B y: the Hessian is [[diag(6x), B], [Bᵀ, 0]]."""
    return (x**3).sum() + x @ B @ y


def expected(v: Tensor, w: Tensor) -> list[Tensor]:
    return [6 * X * v + w @ B.mT, v @ B]


def graph(func: Callable[..., Tensor], *leaves: Tensor) -> GraphEngine:
    engine = GraphEngine.build(objective(func, *leaves), leaves)
    assert isinstance(engine, GraphEngine)
    return engine


def test_graph_value_gradient_and_product() -> None:
    engine = graph(coupled, X, Y)
    torch.testing.assert_close(engine.value, (X**3).sum() + X @ B @ Y)
    assert relative(engine.gradient, [3 * X**2 + B @ Y, B.mT @ X]) < 1e-14
    for _ in range(2):
        assert relative(engine.product([V, W]), expected(V, W)) < 1e-14
    assert engine.nbytes() > 0


def test_graph_block_is_batched_and_equals_the_products() -> None:
    engine = graph(coupled, X, Y)
    vs, ws = normal(4, 3, seed=215), normal(4, 2, seed=216)
    assert not engine.batches
    assert relative(engine.block([vs, ws], 4), expected(vs, ws)) < 1e-14
    assert engine.batches and [check.passed for check in engine.checks] == [True]


@pytest.mark.parametrize("leaf", [0, 1])
def test_graph_rows_of_one_leaf(leaf: int) -> None:
    vectors = normal(4, 3 - leaf, seed=217)
    zeros = torch.zeros(4, 2 + leaf, dtype=vectors.dtype)
    both = (vectors, zeros) if leaf == 0 else (zeros, vectors)
    rows = graph(coupled, X, Y).rows(leaf, vectors)
    assert [r.shape for r in rows] == [(4, 3), (4, 2)]
    assert relative(rows, expected(*both)) < 1e-14


def test_graph_rows_of_a_linear_leaf_are_zero() -> None:
    engine = graph(lambda x, y: (x**3).sum() + y.sum(), X, Y)
    assert relative(engine.product([V, W]), [6 * X * V, 0 * W]) < 1e-14
    assert [r.tolist() for r in engine.rows(1, torch.eye(2, dtype=Y.dtype))] == [
        [[0.0] * 3] * 2,
        [[0.0] * 2] * 2,
    ]


def test_convolution_graphs_loop() -> None:
    kernel = normal(1, 1, 2, seed=218)

    def func(x: Tensor) -> Tensor:
        return F.conv1d(x.reshape(1, 1, 3), kernel).square().sum()

    a, b = kernel.reshape(-1)
    matrix = torch.stack([torch.stack([a, b, 0 * a]), torch.stack([0 * a, a, b])])
    engine, vs = graph(func, X), normal(3, 3, seed=219)
    (block,) = engine.block([vs], 3)
    assert not engine.batches and engine.checks == []
    assert relative(block, vs @ (2 * matrix.mT @ matrix)) < 1e-13


def test_an_operation_without_a_batching_rule_loops_with_the_reason() -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            (x,) = ctx.saved_tensors
            if torch._C._functorch.is_batchedtensor(g):
                raise RuntimeError("no batching here")
            return Slope.apply(x, g)

    class Slope(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor, g: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            ctx.save_for_backward(x, g)
            return 3 * x**2 * g

        @staticmethod
        def backward(ctx, h: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
            x, g = ctx.saved_tensors
            if torch._C._functorch.is_batchedtensor(h):
                raise RuntimeError("no batching here")
            return 6 * x * g * h, 3 * x**2 * h

    engine, vs = graph(lambda x: Cube.apply(x).sum(), X), normal(2, 3, seed=220)
    assert relative(engine.block([vs], 2), [6 * X * vs]) < 1e-14
    assert not engine.batches
    assert [str(a) for a in engine.attempts] == ["batched products: no batching here"]


def test_a_linear_function_has_no_graph() -> None:
    refused = GraphEngine.build(objective(lambda x: x.sum(), X), [X])
    assert isinstance(refused, DerivativeError) and "looks linear" in str(refused)


def test_a_missing_derivative_is_the_reason() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            return x * 2

        @staticmethod
        def backward(ctx, g: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            raise NotImplementedError("no derivative here")

    refused = GraphEngine.build(objective(lambda x: Once.apply(x).sum(), X), [X])
    assert isinstance(refused, DerivativeError) and "no derivative here" in str(refused)
    assert isinstance(refused.__cause__, NotImplementedError)


def test_an_error_of_the_function_itself_passes_through() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        GraphEngine.build(objective(lambda x: x.reshape(7).sum(), X), [X])


@pytest.mark.parametrize(
    "strategy", ["auto", "forward-over-reverse", "reverse-over-reverse", "finite-difference"]
)
def test_afresh_by_every_strategy(strategy: str) -> None:
    engine = RecomputeEngine(objective(coupled, X, Y), [X, Y], strategy, given_up=ValueError("why\nmore"))
    assert relative(engine.gradient, [3 * X**2 + B @ Y, B.mT @ X]) < 1e-14
    tolerance = 1e-6 if strategy == "finite-difference" else 1e-13
    assert relative(engine.product([V, W]), expected(V, W)) < tolerance
    vs, ws = normal(2, 3, seed=221), normal(2, 2, seed=222)
    assert relative(engine.block([vs, ws], 2), expected(vs, ws)) < tolerance
    assert engine.nbytes() == 0 and engine.attempts[0].reason == "why"
    assert engine.strategy.endswith("(afresh for each vector)")


def test_the_report_names_the_way_and_the_remedies() -> None:
    target = objective(coupled, X, Y)
    target.used.add("a remedy")
    engine = RecomputeEngine(target, [X, Y], "auto")
    engine.product([V, W])
    report = engine.report(target)
    assert report.strategy == "forward-over-reverse (afresh for each vector)"
    assert report.remedies == ("a remedy",)
