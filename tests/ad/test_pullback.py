from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hvplib
from hvplib.ad.batched_products import BatchedProducts
from hvplib.ad.leaves import fresh
from hvplib.ad.pullback import _WIDTHS, Pullback
from tests.ad.problems import F64, normal, relative
from tests.ad.trace.programs import agree

A, B = normal(6, 4, seed=1), normal(4, 4, seed=2)
X, Y = normal(4, seed=3), normal(4, seed=4)


def two_layers(x: Tensor, y: Tensor) -> list[Tensor]:
    return [(A @ x).tanh(), y.sin() * (B @ x), torch.ones(3, dtype=F64)]


def transposed(u: Tensor, w: Tensor) -> list[Tensor]:
    """Jᵀ(u, w, ·) of the two layers in closed form."""
    slope = 1 - (A @ X).tanh() ** 2
    return [A.T @ (slope * u) + B.T @ (Y.sin() * w), Y.cos() * (B @ X) * w]


def pullback(func: Callable[..., list[Tensor]] = two_layers, **options: Any) -> Pullback:
    leaves = [fresh(X.clone()), fresh(Y.clone())]
    return Pullback(func(*leaves), leaves, F64, **options)


def cotangents(seed: int, *lead: int) -> list[Tensor]:
    return [normal(*lead, n, seed=seed + n) for n in (6, 4, 3)]


@pytest.mark.parametrize("engine", ["graph", "record", "auto"])
def test_products_are_right_and_keep_their_bits(engine: Any) -> None:
    pull, graph = pullback(engine=engine), pullback(engine="graph")
    for seed in range(30):
        u = cotangents(10 * seed)
        assert relative(pull(u), transposed(*u[:2])) < 1e-13
        assert agree(pull(u), graph(u))
    assert pull.recorded == (engine == "record") or engine == "auto"


@pytest.mark.parametrize("engine", ["graph", "record"])
def test_blocks_are_right_and_keep_their_bits(engine: Any) -> None:
    pull, graph = pullback(engine=engine), pullback(engine="graph")
    for width in (1, 2, 3, 2, 5, 7, 9, 3, 9):
        u = cotangents(width, width)
        got = pull.block(u)
        for j in range(width):
            assert relative([g[j] for g in got], transposed(u[0][j], u[1][j])) < 1e-13
        assert agree(got, graph.block(u))
    assert len(pull._blocks) == _WIDTHS and pull.batched
    assert [check.passed for check in pull.checks] == [True]
    recorded = [replay.program is not None for replay in pull._blocks.values()]
    assert recorded == [engine == "record"] * _WIDTHS


@pytest.mark.parametrize("engine", ["graph", "record"])
def test_without_a_way_down_it_is_zero(engine: Any) -> None:
    constants = pullback(lambda x, y: [torch.ones(2, dtype=F64)], engine=engine)
    first_only = pullback(lambda x, y: [x * x], engine=engine)
    for _ in range(3):
        assert agree(constants([torch.ones(2, dtype=F64)]), [torch.zeros_like(X)] * 2)
        assert agree(first_only([Y]), [2 * X * Y, torch.zeros_like(Y)])
    assert [b.tolist() for b in constants.block([torch.ones(3, 2, dtype=F64)])] == [[[0.0] * 4] * 3] * 2


@pytest.mark.parametrize("engine", ["graph", "record"])
def test_results_are_no_views_of_what_came_in_or_is_kept(engine: Any) -> None:
    pull = pullback(lambda x, y: [x + 0, y.sum().expand(4)], engine=engine)
    u = [X.clone(), Y.clone()]
    for _ in range(3):
        for result in pull(u):
            result.fill_(7.0)
        assert torch.equal(u[0], X) and torch.equal(u[1], Y)
        assert agree(pull(u), [X, Y.sum().expand(4)])


@pytest.mark.parametrize("engine", ["graph", "record"])
def test_a_convolution_is_not_batched(engine: Any) -> None:
    kernel = normal(1, 1, 2, seed=8)
    pull = pullback(lambda x, y: [torch.conv1d(x[None, None], kernel)], engine=engine)
    u = normal(3, 1, 1, 3, seed=9)
    expected = torch.stack([torch.conv_transpose1d(v, kernel)[0, 0] for v in u])
    torch.testing.assert_close(pull.block([u])[0], expected)
    assert pull.batched is False and pull._blocks == {}


def test_without_a_batching_rule_it_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(_func: Any, _tensors: Any) -> Any:
        raise RuntimeError(
            "Batching rule not implemented for aten::missing; we could not generate a fallback"
        )

    monkeypatch.setattr("hvplib.ad.pullback.mapped", raises)
    pull = pullback(engine="record")
    u = cotangents(5, 3)
    got = pull.block(u)
    assert pull.batched is False and "aten::missing" in str(pull.attempts[0])
    for j in range(3):
        assert relative([g[j] for g in got], transposed(u[0][j], u[1][j])) < 1e-13


def test_a_wrong_batching_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = hvplib.ad.pullback.mapped
    monkeypatch.setattr("hvplib.ad.pullback.mapped", lambda *args: tuple(1.001 * r for r in right(*args)))
    pull, u = pullback(), cotangents(5, 3)
    got = pull.block(u)
    assert pull.batched is False and [check.passed for check in pull.checks] == [False]
    for j in range(3):
        assert relative([g[j] for g in got], transposed(u[0][j], u[1][j])) < 1e-13


# --------------------------------------------------------------------------------------- what is not recorded


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * grad


def with_saved_tensors_put_away(x: Tensor, y: Tensor) -> list[Tensor]:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy().copy(), torch.from_numpy):
        return [x.sin() * y]


def test_what_may_do_anything_is_not_recorded() -> None:
    for func, options in (
        (lambda x, y: [Double.apply(x)], {}),
        (with_saved_tensors_put_away, {}),
        (two_layers, {"hooked": True}),
    ):
        pull = pullback(func, engine="record", **options)
        u = [normal(*o.shape, seed=5) for o in func(X, Y)]
        first = pull(u)
        assert not pull.recorded and "not recorded" in pull._single.reason
        assert agree(pull(u), first)


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda x: x.prod() * x.sum(),
    "product of columns": lambda x: torch.outer(x, x.sin()).prod(0).sum(),
    "cumulative product": lambda x: x.cumprod(0).square().sum(),
    "greatest": lambda x: x.max() ** 2 * x.sum(),
    "median": lambda x: x.median() ** 3 * x.sum(),
    "norm": lambda x: x.norm() * x.sum(),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_derivatives_that_torch_computes_otherwise_while_they_are_recorded(name: str) -> None:
    """Where that shows in a bit of some vectors, for a zero in the point too, there is no record."""
    for x in (X, torch.linspace(0.2, 1, 5, dtype=F64), torch.linspace(0, 1, 5, dtype=F64), X[:1]):
        model, graph = (hvplib.local_model(FORMULAS[name], x, engine=e) for e in ("record", "graph"))
        for seed in range(40):
            v = normal(*x.shape, seed=seed)
            assert agree([model.hvp(v)], [graph.hvp(v)])


def test_hooks_are_called_at_each_product() -> None:
    seen: list[Tensor] = []

    def func(x: Tensor) -> Tensor:
        y = x.sin()
        if y.requires_grad:
            y.register_hook(seen.append)
        return (y**3).sum()

    model = hvplib.local_model(func, X, engine="record")
    model.hvp(Y)
    seen.clear()
    for _ in range(3):
        model.hvp(Y)
    assert len(seen) >= 3 and not model.report.recorded
    jacobian = hvplib.local_jacobian(func, X)
    jacobian.vjp(torch.ones((), dtype=F64))
    seen.clear()
    jacobian.vjp(torch.ones((), dtype=F64))
    assert len(seen) == 1


def test_a_hook_that_changes_gradients_for_some_vectors_only_is_refused_for_these() -> None:
    """One that reads them by NumPy cannot be seen by what records operations."""

    def func(x: Tensor) -> Tensor:
        y = x.sin() * x
        y.register_hook(lambda g: g.clamp(-1e3, 1e3) if abs(g.detach().numpy()).max() > 1e3 else None)
        return (y**3).sum()

    model = hvplib.local_model(func, X, engine="record")
    model.hvp(Y)
    with pytest.raises(hvplib.DerivativeError, match="hook"):
        model.hvp(1e6 * Y)


# -------------------------------------------------------------------------------------- around a recorded one


def test_writing_to_what_was_captured_is_told_as_before() -> None:
    for write in (lambda w: w.add_(1), lambda w: w[1:].mul_(2), lambda w: w.detach().zero_()):
        w = B.clone()
        pull = pullback(lambda x, y, w=w: [(w @ x).sin() * (w @ y)], engine="record")
        pull([X])
        assert pull.recorded
        write(w)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            pull([X])


def test_vectors_of_inference_mode() -> None:
    pull, graph = pullback(engine="record"), pullback(engine="graph")
    pull(cotangents(1))
    with torch.inference_mode():
        u, U = cotangents(2), cotangents(3, 2)
        single, block = pull(u), pull.block(U)
    assert not any(x.is_inference() for x in (*single, *block))
    assert agree(single, graph([x.clone() for x in u]))
    assert agree(block, graph.block([x.clone() for x in U]))


def test_bytes_count_what_is_recorded() -> None:
    pull = pullback(engine="record")
    graph = pull.nbytes
    pull(cotangents(1))
    program = pull._single.program
    assert program is not None
    new = {c.untyped_storage().data_ptr(): c.untyped_storage().nbytes() for c in program.constants}
    assert graph < pull.nbytes <= graph + sum(new.values())


def test_a_dropped_one_frees_everything_without_the_collector() -> None:
    model = hvplib.local_model(lambda x: ((A @ x).tanh() * (A @ x).sin()).sum(), X, engine="record")
    V = normal(3, 4, seed=6)
    model.hvp(Y), model.hvp_block(V), model.hvp_block(V)
    pull = model.engine._pullback
    programs = [pull._single.program, *(of.program for of in pull._blocks.values())]
    assert len(programs) == 2 and None not in programs
    constants = [weakref.ref(c) for program in programs for c in program.constants]
    del programs, pull
    gc.collect()
    gc.disable()
    try:
        assert constants and all(r() is not None for r in constants)
        model.release()
        assert all(r() is None for r in constants)
    finally:
        gc.enable()


def test_the_report_says_that_it_is_recorded() -> None:
    model = hvplib.local_model(lambda x: (x**3).sum(), X, engine="record")
    model.hvp(Y)
    assert model.report.recorded and "record" in str(model.report)
    graph = hvplib.local_model(lambda x: (x**3).sum(), X, engine="graph")
    graph.hvp(Y)
    assert not graph.report.recorded and "record" not in str(graph.report)
    assert agree([model.hvp(Y)], [graph.hvp(Y)])


def test_products_with_one_matrix_are_looked_for_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look takes time for each operation: not for a pass that is made once."""
    looks: list[int] = []
    begin = BatchedProducts.__enter__

    def watched(self: BatchedProducts) -> Any:
        looks.append(1)
        return begin(self)

    monkeypatch.setattr(BatchedProducts, "__enter__", watched)
    x = normal(4, seed=90).requires_grad_()
    u = normal(3, 4, seed=91)
    expected = u * 3 * x.detach() ** 2
    plain = Pullback([x**3], [x], torch.float64, batched=True, joined=False)
    assert torch.allclose(plain.block([u])[0], expected) and not looks
    assert torch.allclose(plain.unchecked([u])[0], expected) and not looks  # type: ignore[index]
    assert torch.allclose(Pullback([x**3], [x], torch.float64, batched=True).block([u])[0], expected)
    assert looks
