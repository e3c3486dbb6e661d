"""local_model: one point, differentiated once; products and blocks, proof, report, memory."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from hvplib import DerivativeError, LocalModel, OutputError, Report, local_model
from hvplib.ad import remedies
from hvplib.ad.inputs import STRATEGIES
from tests.ad.problems import (
    F64,
    PROBLEMS,
    Cube,
    CutCube,
    Problem,
    difference_hessian,
    directions,
    flat,
    normal,
    relative,
)

X, V, W = normal(3, seed=50), normal(3, seed=51), normal(3, seed=52)
KEPT = "reverse-over-reverse (graph kept)"


def cubic(x: Tensor) -> Tensor:
    return (x**3).sum() + x.prod()


def cubic_hessian(x: Tensor) -> Tensor:
    off = x.prod() / torch.outer(x, x)
    return torch.diag(6 * x) + off - off.diag().diag()


def block_of(primals: Any, width: int) -> Any:
    return tree_map(lambda x: normal(width, *x.shape, seed=width + x.dim()).to(x.dtype), primals)


# ----------------------------------------------------------------------------------- the model, two oracles


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_equals_the_closed_form(problem: Problem, strategy: str) -> None:
    tolerance = 1e-7 if strategy == "finite-difference" else 1e-13
    model = local_model(problem.func, problem.primals, strategy=strategy)
    v = directions(problem.primals)
    assert relative(model.hvp(v), problem.product(v)) < tolerance
    block = block_of(problem.primals, 4)
    got = model.hvp_block(block)
    for j in range(4):
        expected = problem.product(tree_map(lambda b: b[j], block))  # noqa: B023
        assert relative(tree_map(lambda h: h[j], got), expected) < tolerance  # noqa: B023


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_value_and_gradient(problem: Problem) -> None:
    """Against torch.autograd, and against differences of the value."""
    model = local_model(problem.func, problem.primals)
    is_tuple = type(problem.primals) is tuple
    leaves = [x.clone().requires_grad_() for x in tree_leaves(problem.primals)]
    tree = torch.utils._pytree.tree_unflatten(leaves, torch.utils._pytree.tree_structure(problem.primals))
    value = problem.func(*tree) if is_tuple else problem.func(tree)
    assert torch.equal(model.value, value.detach()) and model.value.shape == ()
    assert relative(model.gradient, torch.autograd.grad(value, leaves)) < 1e-15
    assert type(model.gradient) is type(problem.primals)
    v = directions(problem.primals)
    ahead, behind = (
        problem.func(*shifted) if is_tuple else problem.func(shifted)
        for shifted in (tree_map(lambda x, t: x + s * t, problem.primals, v) for s in (1e-5, -1e-5))  # noqa: B023
    )
    assert float((ahead - behind) / 2e-5) == pytest.approx(float(flat(model.gradient) @ flat(v)), rel=1e-7)


def test_a_network_against_differences_of_gradients() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(1, 2, 3), nn.GroupNorm(1, 2), nn.SiLU(), nn.Flatten(), nn.Linear(6, 2)
    ).double()
    data, target = normal(4, 1, 5), torch.tensor([0, 1, 1, 0])

    def loss(p: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(net, p, (data,)), target)

    p = {k: q.detach() for k, q in net.named_parameters()}
    model = local_model(loss, p)
    block = block_of(p, 3)
    got = model.hvp_block(block)
    dense = difference_hessian(loss, p)
    for j in range(3):
        column = tree_map(lambda b: b[j], block)  # noqa: B023
        assert relative(tree_map(lambda h: h[j], got), dense @ flat(column)) < 1e-9  # noqa: B023
        assert relative(tree_map(lambda h: h[j], got), model.hvp(column)) < 1e-12  # noqa: B023
    assert model.report.strategy == KEPT


# ----------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_blocks_of_width_zero_and_one(strategy: str) -> None:
    model = local_model(lambda x, y: cubic(x) * y.sum(), (X, W), strategy=strategy)
    empty = model.hvp_block((torch.empty(0, 3, dtype=F64), torch.empty(0, 3, dtype=F64)))
    assert [e.shape for e in empty] == [(0, 3), (0, 3)]
    one = model.hvp_block((V[None], W[None]))
    assert relative(tree_map(lambda h: h[0], one), model.hvp((V, W))) < 1e-13


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ((V[None],), "V must have the structure of the primals and a leading dimension k"),
        ((V[None], 1.0), "V must have the structure of the primals and a leading dimension k"),
        ((V[None], torch.ones((), dtype=F64)), "leading dimension k on every leaf; stack the vectors"),
        ((V.repeat(2, 1), W.repeat(3, 1)), r"one leading dimension k on all leaves, got \[2, 3\]"),
        ((V[None, :2], W[None]), r"V\[0\]\[0\] must have the shape of its primal, \(3,\), got \(2,\)"),
        ((V[None].float(), W[None]), r"V\[0\]\[0\] must have the dtype of its primal"),
    ],
)
def test_bad_blocks(block: Any, text: str) -> None:
    model = local_model(lambda x, y: cubic(x) * y.sum(), (X, W))
    with pytest.raises(ValueError, match=text):
        model.hvp_block(block)


class NoRule(torch.autograd.Function):
    """x² of which vmap knows nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _TimesTwo.apply(x) * g


class _TimesTwo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return torch.from_numpy(2 * g.numpy())  # a batched tensor has no NumPy array


def test_a_loop_where_an_operation_has_no_batching_rule() -> None:
    model = local_model(lambda x: (NoRule.apply(x) ** 2).sum(), X)
    block = block_of(X, 3)
    assert relative(model.hvp_block(block), block * 12 * X**2) < 1e-13
    assert model.report.strategy == KEPT
    assert "batched products" in [attempt.strategy for attempt in model.report.attempts]


class _WrongRule(torch.autograd.Function):
    """2 g, of which the batching rule makes 3 g."""

    @staticmethod
    def forward(g: Tensor) -> Tensor:
        return 2 * g

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, g: Tensor) -> tuple[Tensor, int]:
        return 3 * g, in_dims[0]


class _TimesTwoWronglyBatched(_TimesTwo):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _WrongRule.apply(g)  # type: ignore[no-any-return]


class WronglyBatched(NoRule):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _TimesTwoWronglyBatched.apply(x) * g


def test_a_loop_where_a_batching_rule_is_wrong() -> None:
    model = local_model(lambda x: WronglyBatched.apply(x).sum(), X)
    block = block_of(X, 3)
    assert relative(model.hvp_block(block), 2 * block) < 1e-13
    check = next(check for check in model.report.checks if check.name == "batched against single")
    assert check.passed is False


def test_the_first_block_is_held_against_single_products() -> None:
    model = local_model(cubic, X)
    model.hvp_block(block_of(X, 3))
    assert "batched against single" in [check.name for check in model.report.checks]


# ------------------------------------------------------------------------------------- done once, and proof


class Counted:
    def __init__(self, func: Any) -> None:
        self.func, self.calls = func, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.func(x)  # type: ignore[no-any-return]


def test_differentiated_once() -> None:
    func = Counted(cubic)
    model = local_model(func, X)
    assert func.calls == 1
    model.hvp(V)
    proof = func.calls
    assert 1 < proof <= 16
    for _ in range(5):
        model.hvp(W)
        model.hvp_block(block_of(X, 3))
    assert func.calls == proof


def test_verification_can_be_turned_off() -> None:
    func = Counted(cubic)
    model = local_model(func, X, verify=False)
    assert relative(model.hvp(V), cubic_hessian(X) @ V) < 1e-13
    assert func.calls == 1
    assert model.report.checks == ()


def test_the_report_tells_the_way_and_the_evidence() -> None:
    model = local_model(lambda x: F.huber_loss(x, torch.zeros(3, dtype=F64)), X)
    model.hvp(V)
    report = model.report
    assert isinstance(report, Report) and report.strategy == KEPT and report.attempts == ()
    names = [check.name for check in report.checks]
    assert names == ["symmetry", "called twice", "reverse-over-reverse against forward-over-reverse",
                     "difference of gradients"]  # fmt: skip
    assert all(check.passed for check in report.checks)
    text = str(report)
    assert text.startswith(f"strategy: {KEPT}\n")
    assert "remedies: huber_loss decomposed" in text
    assert "check symmetry: ok (relative error" in text


def test_the_report_is_ready_before_the_first_product() -> None:
    assert len(local_model(cubic, X).report.checks) == 4


def test_a_custom_function_without_forward_mode() -> None:
    model = local_model(lambda x: (Cube.apply(x) * x.sin()).sum(), X)
    truth = difference_hessian(lambda x: (x**3 * x.sin()).sum(), X)
    assert relative(model.hvp(V), truth @ V) < 1e-10
    assert [a.strategy for a in model.report.attempts] == ["forward-over-reverse"]
    assert "jvp" in model.report.attempts[0].reason


@pytest.mark.parametrize("func", [lambda x: CutCube.apply(x).sum(), lambda x: (CutCube.apply(x) * x).sum()])
def test_a_derivative_that_gets_lost_is_refused(func: Any) -> None:
    """Once the gradient looks linear to reverse mode, once its graph lacks a term."""
    model = local_model(func, X)
    with pytest.raises(DerivativeError, match="no way of"):
        model.hvp(V)
    with pytest.raises(DerivativeError, match="no way of"):
        model.hvp(V)


def test_a_wrong_kept_graph_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """as_strided_scatter has a wrong double backward in torch 2.13; the proof finds it."""
    monkeypatch.setitem(remedies._handlers, torch.as_strided_scatter, None)

    def func(x: Tensor) -> Tensor:
        return (torch.as_strided_scatter(x**2, x[:2] ** 3, (2,), (1,)) ** 2).sum()

    model = local_model(func, X)
    expected = difference_hessian(func, X) @ V
    assert relative(model.hvp(V), expected) < 1e-10
    assert model.report.strategy == "forward-over-reverse (afresh for each vector)"
    assert [attempt.strategy for attempt in model.report.attempts] == [KEPT]
    assert "reverse-over-reverse against forward-over-reverse: FAILED" in model.report.attempts[0].reason
    assert [check.name for check in model.report.checks] == ["symmetry", "difference of gradients"]
    assert relative(model.hvp_block(torch.stack([V, -V]))[1], -expected) < 1e-10


def test_a_named_way_that_cannot_is_refused() -> None:
    with pytest.raises(DerivativeError, match=r"a custom torch\.autograd\.Function"):
        local_model(lambda x: Cube.apply(x).sum(), X, strategy="forward-over-reverse").hvp(V)


@pytest.mark.parametrize(
    "func", [lambda x: x.sum(), lambda x: torch.ones((), dtype=F64)], ids=["linear", "constant"]
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_functions_without_curvature(func: Any, strategy: str) -> None:
    try:
        model = local_model(func, X, strategy=strategy)
    except DerivativeError:
        assert strategy == "reverse-over-reverse", "there is no graph to keep"
        return
    assert torch.equal(model.hvp(V), torch.zeros_like(X))
    assert torch.equal(model.hvp_block(torch.stack([V, W])), torch.zeros(2, 3, dtype=F64))


# ----------------------------------------------------------------------------------- results, modes, dtypes


def test_has_aux() -> None:
    scale = torch.tensor(2.0, dtype=F64, requires_grad=True)
    model = local_model(lambda x: (cubic(x), {"twice": scale * x, "name": "n"}), X, has_aux=True)
    assert torch.equal(model.aux["twice"], 2 * X) and model.aux["name"] == "n"
    assert not model.aux["twice"].requires_grad
    assert relative(model.hvp(V), cubic_hessian(X) @ V) < 1e-13
    assert local_model(cubic, X).aux is None


@pytest.mark.parametrize(
    ("func", "got"),
    [(cubic, "Tensor"), (lambda x: (cubic(x), 1, 2), "tuple"), (lambda x: [cubic(x), 1], "list")],
)
def test_bad_aux(func: Any, got: str) -> None:
    with pytest.raises(OutputError, match=rf"func must return \(scalar, aux\) with has_aux=True, got {got}"):
        local_model(func, X, has_aux=True)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_everything_is_detached(strategy: str) -> None:
    x = X.clone().requires_grad_()
    a = torch.tensor(2.0, dtype=F64, requires_grad=True)
    model = local_model(lambda x: a * cubic(x), x, strategy=strategy)
    results = [model.value, model.gradient, model.hvp(V), model.hvp_block(torch.stack([V, W]))]
    assert not any(r.requires_grad for r in results)
    assert x.grad is None and a.grad is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_made_and_used_in_any_mode(mode: Any, strategy: str) -> None:
    with mode():
        made_inside = local_model(cubic, X.clone(), strategy=strategy)
        inside = made_inside.hvp(V.clone())
        block = made_inside.hvp_block(torch.stack([V, W]))
    outside = local_model(cubic, X, strategy=strategy)
    assert torch.equal(inside, outside.hvp(V)) and torch.equal(made_inside.hvp(V), inside)
    assert torch.equal(block, outside.hvp_block(torch.stack([V, W])))
    with mode():
        assert torch.equal(outside.hvp(V.clone()), inside)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)]
)
def test_lower_precision(dtype: torch.dtype, tolerance: float) -> None:
    x, v = (torch.tensor(t, dtype=dtype) for t in ([0.5, -0.75, 1.25], [1.0, 0.5, -0.25]))
    model = local_model(cubic, x)
    assert model.hvp(v).dtype == model.gradient.dtype == dtype
    assert relative(model.hvp(v), cubic_hessian(x.double()) @ v.double()) < tolerance
    assert (
        relative(model.hvp_block(torch.stack([v, -v]))[1], -cubic_hessian(x.double()) @ v.double())
        < tolerance
    )


def test_the_point_stays_where_it_was() -> None:
    """The graph is that of the point at which the model was made: an update in place is noticed."""
    x = X.clone()
    model = local_model(cubic, x)
    before = model.hvp(V)
    x.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model.hvp(V)
    assert torch.equal(local_model(cubic, X).hvp(V), before)


def test_two_equal_calls_are_bitwise_equal() -> None:
    model = local_model(cubic, X)
    assert torch.equal(model.hvp(V), model.hvp(V))
    block = block_of(X, 3)
    assert torch.equal(model.hvp_block(block), model.hvp_block(block))
    assert torch.equal(local_model(cubic, X).hvp(V), model.hvp(V))


def test_dropout_is_frozen() -> None:
    torch.manual_seed(4)
    state = torch.get_rng_state()
    mask = F.dropout(torch.ones(3, dtype=F64), 0.5)
    torch.set_rng_state(state)
    model = local_model(lambda x: (F.dropout(x, 0.5) ** 3).sum(), X)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)  # what happens to the generator afterwards does not matter
    later = torch.get_rng_state()
    assert relative(model.hvp(V), 6 * X * mask**3 * V) < 1e-13
    assert relative(model.value, (X * mask).pow(3).sum()) < 1e-14
    assert torch.equal(torch.get_rng_state(), later)


# --------------------------------------------------------------------------------------------------- memory


def test_release_frees_the_graph() -> None:
    model = local_model(lambda x: (x.sin().exp() * x).sum(), normal(1000))
    assert model.nbytes >= 3 * 8000
    value, slope = model.value.clone(), model.gradient.clone()
    engine = weakref.ref(model._engine)
    model.release()
    assert engine() is None and model.nbytes == 0
    assert torch.equal(model.value, value) and torch.equal(model.gradient, slope)
    for use in (
        lambda: model.hvp(normal(1000)),
        lambda: model.hvp_block(normal(2, 1000)),
        lambda: model.report,
    ):
        with pytest.raises(RuntimeError, match=r"was released; make a new one with hvplib\.local_model"):
            use()


def test_dropping_the_model_frees_everything_by_reference_count() -> None:
    gc.disable()
    try:
        big = normal(1000)
        watched = weakref.ref(big)
        model = local_model(lambda x, keep=big: (x * keep).sin().sum(), normal(1000))
        model.hvp(normal(1000))
        del big
        assert watched() is not None
        del model
        assert watched() is None
    finally:
        gc.enable()


def test_nothing_is_kept_where_products_are_made_afresh() -> None:
    model = local_model(cubic, X, strategy="forward-over-reverse")
    model.hvp(V)
    assert model.nbytes == 0
    assert model.report.strategy == "forward-over-reverse (afresh for each vector)"


def test_the_class_is_public() -> None:
    assert isinstance(local_model(cubic, X), LocalModel)
