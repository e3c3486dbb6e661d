"""Sources of rows: each equals the closed form, and the right one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from hvplib import hessian
from hvplib.ad.axes import Piece
from hvplib.ad.engines import GraphEngine
from hvplib.ad.guard import derivative
from hvplib.ad.objective import Objective
from hvplib.ad.row_source import row_source
from hvplib.ad.rows import KeptRows, PushedRows, Rows, SingleRows
from tests.ad.problems import normal, relative


def source(func: Callable[..., Tensor], *leaves: Tensor, strategy: str = "auto", graph: bool = False) -> Rows:
    objective = Objective(func, tree_flatten(leaves)[1])
    with derivative(), objective.session():
        output = objective.evaluate(leaves, "plain")
        return row_source(objective, leaves, output, strategy, [], wants_graph=graph, at_once=False)


def piece(leaf: int, *offsets: int) -> Piece:
    return Piece(leaf, torch.tensor(offsets), torch.arange(len(offsets)))


class Cube(torch.autograd.Function):
    """x³, without forward mode or a batching rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


def test_kept_rows_of_many_entries_go_through_vjp(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(768, seed=230)
    rows = source(lambda x: (x**3).sum() + x.sum() ** 2, x)
    assert isinstance(rows, KeptRows)
    expected = torch.diag(6 * x) + 2
    whole = piece(0, *range(768))
    rows.push(whole, 0, 1)
    # from here on the graph must not be asked: what comes is that of the linearisation
    monkeypatch.setattr(GraphEngine, "rows", None)
    assert relative(rows.push(whole, 3, 250), [expected[3:250]]) < 1e-14
    assert rows.bytes_per_vector() > 0


def test_kept_rows_of_few_entries_of_two_leaves() -> None:
    x, y, b = normal(3, seed=231), normal(2, seed=232), normal(3, 2, seed=233)
    rows = source(lambda x, y: (x**3).sum() + x @ b @ y, x, y)
    assert isinstance(rows, KeptRows)
    assert relative(rows.push(piece(0, 2, 0), 0, 2), [torch.diag(6 * x)[[2, 0]], b[[2, 0]]]) < 1e-14
    assert relative(rows.push(piece(1, 0, 1), 1, 2), [b.mT[1:], torch.zeros(1, 2)]) < 1e-14


@pytest.mark.parametrize("strategy", ["auto", "forward-over-reverse", "reverse-over-reverse"])
def test_pushed_rows_run_component_by_component(strategy: str) -> None:
    x = normal(3, seed=234)
    rows = source(lambda x: torch.stack([(x**3).sum(), x.prod()]), x, strategy=strategy)
    assert isinstance(rows, PushedRows) and rows.components == 2
    a, b, c = x
    zero = 0 * a
    product = torch.stack([torch.stack(r) for r in ((zero, c, b), (c, zero, a), (b, a, zero))])
    expected = torch.cat([torch.diag(6 * x), product])
    assert relative(rows.push(piece(0, 0, 1, 2), 0, 6), [expected]) < 1e-13
    assert relative(rows.push(piece(0, 0, 1, 2), 2, 4), [expected[2:4]]) < 1e-13
    assert relative(rows.push(piece(0, 1), 0, 2), [expected[[1, 4]]]) < 1e-13


def test_rows_with_a_graph_are_differentiable() -> None:
    x = normal(3, seed=235).requires_grad_()
    rows = source(lambda x: (x**4).sum(), x, graph=True)
    assert isinstance(rows, PushedRows) and not rows.plain
    (pushed,) = rows.push(piece(0, 0, 1, 2), 0, 3)
    (third,) = torch.autograd.grad(pushed.sum(), x)
    torch.testing.assert_close(third, 24 * x.detach())


def test_single_rows_for_a_custom_function() -> None:
    x = normal(3, seed=236)
    rows = source(lambda x: torch.stack([Cube.apply(x).sum(), Cube.apply(2 * x).sum()]), x)
    assert isinstance(rows, SingleRows) and rows.components == 2
    expected = torch.cat([torch.diag(6 * x), torch.diag(48 * x)])
    assert relative(rows.push(piece(0, 0, 1, 2), 0, 6), [expected]) < 1e-13


def test_single_rows_by_finite_differences() -> None:
    x = normal(3, seed=237)
    rows = source(lambda x: (x**3).sum(), x, strategy="finite-difference")
    assert isinstance(rows, SingleRows)
    assert relative(rows.push(piece(0, 1, 2), 0, 2), [torch.diag(6 * x)[1:]]) < 1e-6


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many vectors each batched pass takes."""
    widths: list[int] = []
    batch = GraphEngine.batch

    def watched(self: GraphEngine, tangents: Any) -> Any:
        widths.append(len(tangents[0]))
        return batch(self, tangents)

    monkeypatch.setattr(GraphEngine, "batch", watched)
    return widths


@pytest.mark.parametrize(("size", "rows"), [(100, None), (300, None), (300, 300), (500, 500), (700, 690)])
def test_few_rows_of_several_tensors_are_pushed_together(
    size: int, rows: int | None, passes: list[int]
) -> None:
    """Up to 512, in one pass or two, or 256 of a whole matrix; of more, those of each tensor apart."""
    x, y = normal(size - 20, seed=238), normal(20, seed=239)
    func = lambda x, y: (x**3).sum() * y.sin().sum() + (y**4).sum()  # noqa: E731
    expected = torch.func.hessian(func, (0, 1))(x, y)
    if rows is None:
        found = hessian(func, (0, 1))(x, y)
        assert all(relative(a, b) < 1e-13 for a, b in zip(found, expected, strict=True))
    else:
        found = torch.cat(hessian(func, (0, 1), rows=range(rows))(x, y), 1)
        assert relative(found, torch.cat([torch.cat(row, 1) for row in expected])[:rows]) < 1e-13
    if rows is None and size > 256:
        assert passes == []
    elif size <= 512:
        assert passes[0] - 1 + sum(passes[1:]) >= size and len(passes) <= 2
    else:
        assert passes == [2]


def test_few_rows_of_a_known_function_are_pushed_together(passes: list[int]) -> None:
    x, y = normal(80, seed=241), normal(20, seed=242)
    func = lambda x, y: (x**3).sum() * y.sin().sum() + (y**4).sum()  # noqa: E731
    known = hessian(func, (0, 1))
    first, again = known(x, y), known(x, y)
    assert passes == [101, 100], "the first time, beside the vector that is judged"
    assert all(relative(a, b) < 1e-14 for a, b in zip(again, first, strict=True))


def test_a_wrong_batching_rule_is_seen_in_the_vector_beside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = GraphEngine.batch

    def wrong(self: GraphEngine, tangents: Any) -> Any:
        products = batch(self, tangents)
        return None if products is None else [p.mean(0, keepdim=True).expand_as(p) for p in products]

    monkeypatch.setattr(GraphEngine, "batch", wrong)
    x = normal(600, seed=240)
    rows = source(lambda x: (x**3).sum(), x)
    assert isinstance(rows, KeptRows)
    assert relative(rows.push(piece(0, 5), 0, 1), [torch.diag(6 * x)[5:6]]) < 1e-14
