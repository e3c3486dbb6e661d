"""Local models of one function at many points: the record serves only where it is the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hvplib.ad.derivatives import _FIRST, Derivatives
from hvplib.ad.local_model import LocalModel, local_model
from hvplib.ad.recorded import RecordedEngine
from hvplib.ad.trace.second_order import SecondOrder
from hvplib.errors import DerivativeError
from hvplib.operators import HessianOperator
from tests.problems import logistic_regression, rosenbrock

F64 = torch.float64
A = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=F64)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def derivatives(func: Callable[..., Tensor], **options: Any) -> Derivatives:
    return Derivatives(lambda data: lambda *x: (func(*x, *data), 1.0), "auto", **options)


def learnt(of: Derivatives, *data: Tensor, n: int = 4) -> LocalModel:
    """The local model at a point after so many that a program is in use, if ever."""
    for seed in range(_FIRST + 1):
        of.local_model(normal(n, seed=seed), data, verify=False)
    return of.local_model(normal(n, seed=99), data, verify=False)


def reason(of: Derivatives) -> str:
    (family,) = of._families.values()
    return family._reason


def is_recorded(model: LocalModel) -> bool:
    return isinstance(model.engine, RecordedEngine)


SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh layer": lambda x: (A @ x).tanh().square().sum(),
    "layer norm": lambda x: F.layer_norm(A * x, (4,), weight=x).tanh().square().sum(),
    "softmax": lambda x: (A @ x).softmax(0)[2].log() * x.sum(),
    "written in place": lambda x: (
        torch.zeros(4, dtype=F64).index_add(0, torch.tensor([0, 2]), x[:2]).exp().sum()
    ),
    "gradient inside": lambda x: torch.autograd.grad((x**3).sum(), x, create_graph=True)[0].square().sum(),
    "convolution": lambda x: F.conv1d(A[None], x[None, None, :2].expand(1, 7, 2)).square().sum().sin(),
    "detached factor": lambda x: (x.detach() * x**3).sum(),
    "quadratic": lambda x: (A @ x).square().sum(),
    "checkpointed": lambda x: checkpoint(lambda y: (A @ y).sin(), x, use_reentrant=False).square().sum(),
}


@pytest.mark.parametrize("func", SMOOTH.values(), ids=SMOOTH.keys())
def test_a_record_gives_what_the_graph_gives_bit_for_bit(func: Callable[[Tensor], Tensor]) -> None:
    model, x, v, V = learnt(derivatives(func)), normal(4, seed=99), normal(4, seed=5), normal(3, 4, seed=6)
    graph = local_model(func, x, verify=False, engine="graph")
    assert is_recorded(model)
    assert torch.equal(model.value, graph.value) and torch.equal(model.gradient, graph.gradient)
    assert torch.equal(model.hvp(v), graph.hvp(v))
    for row, column in zip(model.hvp_block(V), V, strict=True):
        torch.testing.assert_close(row, graph.hvp(column), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("problem", [rosenbrock(), logistic_regression()], ids=str)
def test_closed_forms_at_points_that_were_not_recorded(problem: Any) -> None:
    of = derivatives(problem.func)
    for seed in range(_FIRST + 1):
        of.local_model(normal(len(problem.point), seed=seed), (), verify=False)
    model = of.local_model(problem.point, (), verify=False)
    assert is_recorded(model)
    torch.testing.assert_close(model.gradient, problem.gradient, rtol=1e-12, atol=1e-12)
    identity = torch.eye(len(problem.point), dtype=F64)
    torch.testing.assert_close(model.hvp_block(identity), problem.hessian, rtol=1e-12, atol=1e-12)


def test_one_record_serves_other_data_of_the_same_shape() -> None:
    func = lambda x, a, y: ((a @ x).tanh() - y).square().sum()  # noqa: E731
    of = derivatives(func)
    for seed in range(_FIRST + 2):
        a, y = normal(7, 4, seed=10 + seed), normal(7, seed=30 + seed)
        model = of.local_model(normal(4, seed=1), (a, y), verify=False)
    assert is_recorded(model)
    expected = local_model(lambda x: func(x, a, y), normal(4, seed=1), verify=False)
    assert torch.equal(model.hvp(y[:4]), expected.hvp(y[:4]))
    other = of.local_model(normal(4, seed=1), (a[:5], y[:5]), verify=False)
    assert not is_recorded(other)  # other shapes are recorded apart


class Switch:
    """A function with a number of its own that somebody changes."""

    def __init__(self) -> None:
        self.power = 3

    def __call__(self, x: Tensor) -> Tensor:
        return (A @ x).abs().pow(self.power).sum()


def test_a_function_that_changes_is_told_by_its_value() -> None:
    func, x, v = Switch(), normal(4, seed=99), normal(4, seed=7)
    of = derivatives(func)
    assert is_recorded(learnt(of))
    func.power = 4
    model = of.local_model(x, (), verify=False)
    expected = A.mT @ (12 * (A @ x) ** 2 * (A @ v))
    assert not is_recorded(model) and "changes by more than its arguments" in reason(of)
    torch.testing.assert_close(model.hvp(v), expected, rtol=1e-12, atol=1e-12)


def test_a_record_that_raises_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SecondOrder, leaves: Any, data: Any) -> Any:
        raise RuntimeError("zero-dimensional tensor cannot be concatenated")

    monkeypatch.setattr(SecondOrder, "linearize", broken)
    of, x = derivatives(lambda x: (A @ x).tanh().square().sum()), normal(4, seed=99)
    model = learnt(of)
    assert not is_recorded(model) and "RuntimeError: zero-dimensional" in reason(of)
    v = normal(4, seed=5)
    assert torch.equal(model.hvp(v), local_model(lambda x: (A @ x).tanh().square().sum(), x).hvp(v))


def test_a_change_that_the_value_at_the_point_does_not_show() -> None:
    """λ ‖x‖² is 0 at 0 for every λ, and so is its gradient."""
    strength = [1.0]
    of, zero, v = derivatives(lambda x: strength[0] * x.square().sum()), torch.zeros(4, dtype=F64), A[0]
    assert is_recorded(learnt(of))
    assert is_recorded(of.local_model(zero, (), verify=False))
    strength[0] = 3.0
    model = of.local_model(zero, (), verify=False)
    assert not is_recorded(model)
    assert torch.equal(model.hvp(v), 6 * v)


@pytest.mark.parametrize("stop", ["detach", "no_grad"])
def test_a_factor_that_is_held_fixed_from_now_on_is_told_by_the_graph(stop: str) -> None:
    """The value is the same, beside the point too; the gradient is not."""
    held = [False]

    def func(x: Tensor) -> Tensor:
        y = (A @ x).tanh()
        if held[0] and stop == "no_grad":
            with torch.no_grad():
                factor = (A @ x).tanh()
        else:
            factor = y.detach() if held[0] else y
        return (y * factor).sum() + y.sum()  # the graph of y is there with and without the factor

    of, x, v = derivatives(func), normal(4, seed=7), normal(4, seed=8)
    assert is_recorded(learnt(of))
    assert is_recorded(of.local_model(x, (), verify=False))
    held[0] = True
    model = of.local_model(x, (), verify=False)
    assert not is_recorded(model)
    t = (A @ x).tanh()  # the Hessian of Σ (c + 1) tanh(a'x) at c = t
    curvature = (t + 1) * -2 * t * (1 - t**2)
    torch.testing.assert_close(model.hvp(v), A.mT @ (curvature * (A @ v)), rtol=1e-12, atol=1e-12)


def test_a_point_beside_which_there_is_no_number() -> None:
    of = derivatives(lambda x: x.log().square().sum())
    for seed in range(_FIRST + 1):
        of.local_model(normal(4, seed=seed).abs(), (), verify=False)
    tiny = torch.full((4,), 1e-9, dtype=F64)  # a step of 1e-5 leads below zero
    model = of.local_model(tiny, (), verify=False)
    expected = local_model(lambda x: x.log().square().sum(), tiny, verify=False)
    torch.testing.assert_close(model.hvp(A[0]), expected.hvp(A[0]), rtol=1e-12, atol=0)


def test_a_weight_that_depends_on_the_point_is_not_taken_from_beside_it() -> None:
    of = Derivatives(lambda data: lambda x: ((A @ x).tanh().sum(), x.sum()), "auto")
    model = learnt(of)
    assert not is_recorded(model) and "depends on the point" in reason(of)
    assert torch.equal(model.aux, normal(4, seed=99).sum())


def test_a_captured_tensor_that_is_written_to_takes_the_record_out_of_use() -> None:
    scale, x, v = torch.ones(4, dtype=F64), normal(4, seed=99), normal(4, seed=7)
    of = derivatives(lambda x: ((scale * 2).exp() * x**4).sum())
    model = learnt(of)
    assert is_recorded(model)
    before = model.hvp(v)
    scale.mul_(2)
    after = of.local_model(x, (), verify=False)
    factor = 12 * x**2 * v
    torch.testing.assert_close(before, factor * torch.ones(4, dtype=F64).mul(2).exp(), rtol=1e-12, atol=0)
    torch.testing.assert_close(after.hvp(v), factor * (scale * 2).exp(), rtol=1e-12, atol=0)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a branch": (lambda x: (x**2 if x.sum() > 0 else x**4).sum(), "_local_scalar_dense"),
    "a number taken out": (lambda x: (x * float(x.norm()) ** 2).pow(2).sum(), ""),
    "a mask": (lambda x: (x[x > 0] ** 3).sum() + (x**4).sum(), "shape"),
    "torch's noise": (lambda x: (F.dropout(x, 0.5, training=True) ** 4).sum(), "random"),
    "NumPy's noise": (lambda x: (x**4).sum() * np.random.rand(), "random"),
}


@pytest.mark.parametrize(("func", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_more_than_arithmetic_keeps_its_graph(func: Callable[[Tensor], Tensor], why: str) -> None:
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    of = derivatives(func)
    assert not is_recorded(learnt(of))
    assert reason(of) and why in reason(of)
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()  # type: ignore[index]


def test_custom_functions_keep_their_graph() -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            return 3 * ctx.saved_tensors[0] ** 2 * grad

    of = derivatives(lambda x: Cube.apply(x).sum())
    assert not is_recorded(learnt(of)) and next(iter(of._families.values())).program is None


def test_the_graph_is_there_where_a_program_cannot_run() -> None:
    model, V = learnt(derivatives(SMOOTH["tanh layer"])), normal(3, 4, seed=8)
    mapped = torch.func.vmap(model.hvp)(V)
    torch.testing.assert_close(mapped, model.hvp_block(V), rtol=1e-12, atol=1e-12)
    with torch.inference_mode():
        inside = model.hvp(V[0])
    torch.testing.assert_close(inside, mapped[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("what", ["point", "data", "data through a view"])
def test_writing_to_what_a_product_reads_is_told(what: str) -> None:
    w, v = normal(4, seed=7), normal(4, seed=8)
    of = derivatives(lambda x, w: ((x * w).sin() * x**3).sum())
    learnt(of, w)
    x = normal(4, seed=99)
    model = of.local_model(x, (w,), verify=False)
    assert is_recorded(model)
    before = model.hvp(v)
    (x if what == "point" else w[1:] if "view" in what else w).mul_(2)
    if what == "point":  # of which a product reads only what was computed before
        assert torch.equal(model.hvp(v), before)
    else:
        with pytest.raises(RuntimeError, match="modified by an in-place operation"):
            model.hvp(v)
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        torch.func.vmap(model.hvp)(v[None])  # by way of a graph, which would be that of another point


def test_a_function_with_hooks_is_not_recorded() -> None:
    """One that changes gradients for some vectors only would not be told of."""

    def func(x: Tensor) -> Tensor:
        y = x.sin() * x
        if y.requires_grad:
            y.register_hook(lambda g: g.clamp(-1e3, 1e3) if abs(g.detach().numpy()).max() > 1e3 else None)
        return (y**3).sum()

    of = derivatives(func)
    model = learnt(of)
    assert not is_recorded(model) and "hooks" in reason(of)
    with pytest.raises(DerivativeError, match="hook"):
        model.hvp(1e7 * normal(4, seed=1))


def test_nothing_is_recorded_or_run_under_autocast() -> None:
    model, v = learnt(derivatives(SMOOTH["tanh layer"])), normal(4, seed=8)
    expected = model.hvp(v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model.hvp(v), expected, rtol=1e-12, atol=1e-12)
        assert not model.report.recorded


def test_asked_for_the_graph_there_is_no_record() -> None:
    of = derivatives(SMOOTH["quadratic"], engine="graph")
    assert not is_recorded(learnt(of)) and not of._families


def test_batches_of_a_module_share_a_record_and_uneven_ones_are_right() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = normal(45, 4, seed=1), torch.randint(3, (45,), generator=torch.Generator().manual_seed(2))
    batches = list(zip(x.split(6), y.split(6), strict=True))  # the last one has 3
    loss = nn.CrossEntropyLoss()
    whole = HessianOperator.from_module(model, loss, [(x, y)])
    v = normal(whole.shape[0], seed=3)
    for budget in ("auto", 0):
        H = HessianOperator.from_module(model, loss, batches, memory_budget=budget)  # type: ignore[arg-type]
        for _ in range(2):
            torch.testing.assert_close(H @ v, whole @ v, rtol=1e-11, atol=1e-13)
        assert sum(family.program is not None for family in H._derivatives._families.values()) == 1


def test_statistics_of_batch_norm_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)).double()
    batches = [(normal(8, 4, seed=s), normal(8, 1, seed=50 + s)) for s in range(_FIRST + 3)]
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    H = HessianOperator.from_module(model, nn.MSELoss(), batches)
    graph = HessianOperator.from_module(model, nn.MSELoss(), batches, engine="graph")
    v = normal(H.shape[0], seed=4)
    assert torch.equal(H @ v, graph @ v)
    assert any(family._proven for family in H._derivatives._families.values())
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_where_the_value_is_known_the_gradient_waits_until_it_is_asked_for() -> None:
    of = derivatives(SMOOTH["tanh layer"])
    x, v = normal(4, seed=99), normal(4, seed=98)
    full = learnt(of)

    def again() -> LocalModel:
        return of.local_model(x, (), verify=False, value=full.value)

    model = again()
    assert is_recorded(model) and model.engine is not None and not model.engine.has_gradient
    assert torch.equal(model.value, full.value) and torch.equal(model.hvp(v), full.hvp(v))
    assert torch.equal(model.gradient, full.gradient)
    model.release()
    assert torch.equal(model.gradient, full.gradient)  # which was there
    released, changed = again(), again()
    released.release()
    with pytest.raises(RuntimeError, match="this local model was released"):
        _ = released.gradient
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        _ = changed.gradient


def test_the_known_value_is_still_what_the_record_is_held_to() -> None:
    of = derivatives(SMOOTH["tanh layer"])
    full = learnt(of)
    model = of.local_model(normal(4, seed=99), (), verify=False, value=full.value + 1)
    assert not is_recorded(model) and "changes by more" in reason(of)
    assert torch.equal(model.gradient, full.gradient)
