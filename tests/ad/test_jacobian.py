from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from hvplib.ad.jacobian import LocalJacobian, local_jacobian
from hvplib.errors import DerivativeError, OutputError
from tests.ad.problems import F64, flat, normal, relative

X, A, B = normal(4, seed=60), normal(6, 4, seed=61), normal(4, 3, seed=62)


def call(func: Callable[..., Any], primals: Any) -> Any:
    return func(*primals) if type(primals) is tuple else func(primals)


def difference_jacobian(func: Callable[..., Any], primals: Any, step: float = 1e-3) -> Tensor:
    """(m, n): 6th-order central differences of values, column by column."""
    leaves, spec = tree_flatten(primals)
    sizes = [x.numel() for x in leaves]

    def value(vector: Tensor) -> Tensor:
        parts = [p.reshape(x.shape).clone() for p, x in zip(vector.split(sizes), leaves, strict=True)]
        return flat(call(func, tree_unflatten(parts, spec)))

    point, columns = flat(primals), []
    for unit in step * torch.eye(sum(sizes), dtype=F64):
        odd = [value(point + k * unit) - value(point - k * unit) for k in (1, 2, 3)]
        columns.append((45 * odd[0] - 9 * odd[1] + odd[2]) / (60 * step))
    return torch.stack(columns, dim=1)


def dense(J: LocalJacobian) -> tuple[Tensor, Tensor]:
    """J by its products with unit vectors, and by those of its transpose."""
    m, n = J.shape
    return J.matmat(torch.eye(n, dtype=F64)), J.rmatmat(torch.eye(m, dtype=F64)).mT


def singly(J: LocalJacobian) -> Tensor:
    return torch.cat([J.matmat(unit.unsqueeze(1)) for unit in torch.eye(J.shape[1], dtype=F64)], dim=1)


def assert_right(func: Callable[..., Any], primals: Any, *, strategy: str = "auto", tol: float = 1e-8) -> Any:
    J = local_jacobian(func, primals, strategy=strategy)
    expected = difference_jacobian(func, primals)
    for got in (*dense(J), singly(J)):
        assert relative(got, expected) < tol
    assert relative(dense(J)[0], dense(J)[1]) < 1e-12
    return J


# ------------------------------------------------------------------------------------------- what it computes


def tree_function(p: dict[str, Tensor]) -> dict[str, Any]:
    return {"outer": torch.outer(p["x"].sin(), p["y"]), "sum": (p["x"] ** 2).sum(), "pair": (p["y"] ** 3,)}


@pytest.mark.parametrize("strategy", ["auto", "double-backward", "forward"])
def test_linear_map_is_its_own_jacobian(strategy: str) -> None:
    J = local_jacobian(lambda x: A @ x + 3, X, strategy=strategy)
    assert J.shape == (6, 4) and torch.equal(J.value, A @ X + 3)
    assert relative(J.matmat(B), A @ B) < 1e-15 and relative(J.rmatmat(A), A.mT @ A) < 1e-15
    assert relative(J.jvp(X), A @ X) < 1e-15 and relative(J.vjp(A @ X), A.mT @ (A @ X)) < 1e-15


@pytest.mark.parametrize("strategy", ["auto", "double-backward", "forward"])
def test_pytrees_of_both_kinds(strategy: str) -> None:
    p = {"x": normal(5, seed=63), "y": normal(3, seed=64)}
    J = assert_right(tree_function, p, strategy=strategy)
    v = {"x": normal(5, seed=65), "y": normal(3, seed=66)}
    pushed = J.jvp(v)
    expected = torch.func.jvp(tree_function, (p,), (v,))[1]
    assert tree_flatten(pushed)[1] == tree_flatten(expected)[1]
    assert relative(pushed, expected) < 1e-14
    u = tree_function(v)
    expected = torch.func.vjp(tree_function, p)[1](u)[0]
    assert relative(J.vjp(u), expected) < 1e-14


def test_tuple_of_arguments_and_blocks() -> None:
    J = local_jacobian(lambda x, y: (torch.outer(x, y), x.sum()), (X, X[:2]))
    block = (normal(3, 4, seed=67), normal(3, 2, seed=68))
    pushed = J.jvp_block(block)
    for j in range(3):
        assert relative([leaf[j] for leaf in pushed], J.jvp((block[0][j], block[1][j]))) < 1e-15
    pulled = J.vjp_block(pushed)
    assert [leaf.shape for leaf in pulled] == [(3, 4), (3, 2)]
    for j in range(3):
        assert relative([leaf[j] for leaf in pulled], J.vjp(tuple(leaf[j] for leaf in pushed))) < 1e-15


def test_empty_block() -> None:
    J = local_jacobian(lambda x: A @ x, X)
    assert J.matmat(X.new_zeros(4, 0)).shape == (6, 0) and J.rmatmat(X.new_zeros(6, 0)).shape == (4, 0)


def test_one_number_to_one_number() -> None:
    J = assert_right(torch.exp, torch.tensor(0.3, dtype=F64))
    assert J.shape == (1, 1)


def test_unused_argument_and_constant_output() -> None:
    J = local_jacobian(lambda x, y: (x**2, torch.ones(2, dtype=F64)), (X, X))
    expected = torch.zeros(6, 8, dtype=F64)
    expected[:4, :4] = torch.diag(2 * X)
    for got in dense(J):
        assert relative(got, expected) < 1e-15


def test_constant_has_a_zero_jacobian() -> None:
    for got in dense(local_jacobian(lambda x: torch.ones(3, dtype=F64), X)):
        assert torch.equal(got, torch.zeros(3, 4, dtype=F64))


def test_at_another_point() -> None:
    J = local_jacobian(lambda x: (A @ x).sin(), X)
    J.matmat(B)
    there = J.at(2 * X)
    assert relative(there.value, (2 * A @ X).sin()) < 1e-15
    assert relative(there.matmat(B), (2 * A @ X).cos().unsqueeze(1) * (A @ B)) < 1e-14
    assert relative(J.matmat(B), (A @ X).cos().unsqueeze(1) * (A @ B)) < 1e-14  # the first one stands


def test_point_is_not_differentiated_again_for_each_product() -> None:
    calls = []

    def func(x: Tensor) -> Tensor:
        calls.append(1)
        return (A @ x).exp()

    J = local_jacobian(func, X)
    J.matmat(B)
    count = len(calls)
    J.matmat(B), J.rmatmat(A), J.jvp(X)
    assert len(calls) == count
    J.at(X + 1).matmat(B)
    assert len(calls) == count + 1  # nothing is proven twice


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_dtypes(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    J = local_jacobian(lambda x: x.sin() * 2, x)
    assert J.matmat(torch.eye(4)).dtype == torch.float32
    assert J.jvp(x).dtype == dtype
    assert relative(J.matmat(torch.eye(4)), torch.diag(2 * x.double().cos())) < 4 * torch.finfo(dtype).eps


def test_release() -> None:
    J = local_jacobian(lambda x: A @ x, X)
    assert J.nbytes > 0
    J.release()
    assert J.nbytes == 0 and relative(J.value, A @ X) < 1e-15
    with pytest.raises(RuntimeError, match="was released"):
        J.jvp(X)


def test_report_names_way_and_checks() -> None:
    J = local_jacobian(lambda x: (A @ x).exp(), X)
    names = {check.name for check in J.report.checks}
    assert J.report.strategy == "double-backward"
    assert {"adjoint", "called twice", "difference of values", "double-backward against forward"} <= names
    assert all(check.passed for check in J.report.checks)


# ---------------------------------------------------------------------------------------------------- traps


def network(*layers: nn.Module) -> tuple[Callable[..., Tensor], dict[str, Tensor]]:
    torch.manual_seed(3)
    module = nn.Sequential(*layers).double()
    params = {name: p.detach() + 0.1 * torch.randn_like(p) for name, p in module.named_parameters()}
    data = normal(5, 3, seed=69)
    return lambda p: torch.func.functional_call(module, p, (data,)), params


@pytest.mark.parametrize("strategy", ["auto", "forward"])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.LayerNorm(4),
        lambda: nn.BatchNorm1d(4),
        lambda: nn.GELU(),
        lambda: nn.utils.weight_norm(nn.Linear(4, 4)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    ],
    ids=["layer norm", "batch norm", "gelu", "weight norm", "parametrised weight norm"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_layers(layer: Callable[[], nn.Module], strategy: str) -> None:
    func, params = network(nn.Linear(3, 4), layer(), nn.Tanh(), nn.Linear(4, 2))
    assert_right(func, params, strategy=strategy)


def test_convolution() -> None:
    image, kernel = normal(2, 1, 5, 5, seed=70), normal(2, 1, 3, 3, seed=71)
    assert_right(lambda k: F.conv2d(image, k).tanh(), kernel)


def test_attention() -> None:
    q, k, v = normal(3, 2, 4, 4, seed=72)
    assert_right(lambda q: F.scaled_dot_product_attention(q, k, v), q)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrence(kind: Any) -> None:
    torch.manual_seed(4)
    module = kind(2, 3).double()
    data = normal(3, 2, 2, seed=73)
    params = {name: p.detach() for name, p in module.named_parameters()}
    assert_right(lambda p: torch.func.functional_call(module, p, (data,))[0], params)


def test_fft_of_a_real_signal() -> None:
    assert_right(lambda x: torch.fft.rfft(x**2).abs(), normal(6, seed=74))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:.*use_reentrant.*")
def test_checkpoint_at_other_parameters(reentrant: bool) -> None:
    inner = nn.Linear(3, 3).double()
    data = normal(4, 3, seed=75)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(lambda y: self.inner(y).tanh(), x, use_reentrant=reentrant)

    module = Net()
    params = {name: normal(*p.shape, seed=76) for name, p in module.named_parameters()}
    inputs = data.clone().requires_grad_()

    def plain(p: dict[str, Tensor]) -> Tensor:
        return (data @ p["inner.weight"].mT + p["inner.bias"]).tanh()

    J = local_jacobian(lambda p: torch.func.functional_call(module, p, (inputs,)), params)
    expected = difference_jacobian(plain, params)
    for got in dense(J):
        assert relative(got, expected) < 1e-8


def to_be_scripted(x):  # type: ignore[no-untyped-def]
    return (x * x.sin()).tanh() * x.exp()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("strategy", ["auto", "forward"])
def test_scripted_function_at_later_calls(strategy: str) -> None:
    scripted = torch.jit.script(to_be_scripted)
    expected = difference_jacobian(to_be_scripted, X)
    J = local_jacobian(scripted, X, strategy=strategy)
    for _ in range(3):
        for got in dense(J):
            assert relative(got, expected) < 1e-8
        J = J.at(X)


class Doubled(torch.autograd.Function):
    """Custom, without forward mode; its backward may be wrong by a factor."""

    factor = 1.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad * Doubled.factor


def test_custom_function_without_forward_mode() -> None:
    J = assert_right(lambda x: Doubled.apply(A @ x), X)
    assert J.report.strategy == "double-backward"
    assert any(attempt.strategy == "forward" for attempt in J.report.attempts)


def test_custom_function_with_a_wrong_backward_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubled, "factor", 1.5)
    with pytest.raises(DerivativeError, match="difference of values: FAILED"):
        local_jacobian(lambda x: Doubled.apply(A @ x), X).jvp(X)


class Once(torch.autograd.Function):
    """A backward that cannot be differentiated; forward mode is there."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * tangent


def test_backward_that_is_differentiable_once_goes_by_forward_mode() -> None:
    J = assert_right(lambda x: Once.apply(A @ x), X)
    assert J.report.strategy == "forward"


def test_custom_function_is_proven_at_each_point() -> None:
    # At zero J does not depend on what the double backward loses.
    J = local_jacobian(lambda x: Once.apply(x) + x, torch.zeros(4, dtype=F64))
    assert relative(dense(J)[0], torch.eye(4, dtype=F64)) < 1e-14
    there = J.at(X)
    assert relative(dense(there)[0], torch.diag(2 * X + 1)) < 1e-14
    assert relative(dense(there.at(2 * X))[0], torch.diag(4 * X + 1)) < 1e-14


class WrongForward(Once):
    """A backward that is right, beside a forward mode that is not."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] * tangent


def test_wrong_forward_mode_is_outvoted_by_the_difference() -> None:
    J = assert_right(lambda x: WrongForward.apply(A @ x), X)
    assert J.report.strategy == "double-backward"


class ConsistentlyWrong(Once):
    """Both ways agree with each other, and not with the values."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] * grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] * tangent


@pytest.mark.parametrize("strategy", ["auto", "forward"])
def test_two_ways_that_are_wrong_alike_are_refused(strategy: str) -> None:
    J = local_jacobian(lambda x: ConsistentlyWrong.apply(A @ x), X, strategy=strategy)
    with pytest.raises(DerivativeError, match="difference of values: FAILED"):
        J.jvp(X)


class Neither(torch.autograd.Function):
    """No second backward, no forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad


def test_no_way_is_refused() -> None:
    with pytest.raises(DerivativeError, match="no way of multiplying with the Jacobian"):
        local_jacobian(lambda x: Neither.apply(A @ x), X).jvp(X)


@pytest.mark.parametrize(
    "func",
    [
        lambda x: torch.from_numpy(np.sin(x.detach().numpy())),
        lambda x: torch.tensor([float(v) ** 2 for v in x], dtype=F64),
    ],
    ids=["numpy", "numbers"],
)
def test_value_without_a_graph_is_refused(func: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(DerivativeError, match="carries no derivative"):
        local_jacobian(func, X).jvp(X)


def test_kept_graph_of_an_earlier_call_is_refused() -> None:
    cache: list[Tensor] = []

    def func(x: Tensor) -> Tensor:
        if not cache:
            cache.append((A @ x).sin())
        return cache[0] * x.sum()

    J = local_jacobian(func, X)
    with pytest.raises(DerivativeError, match="keeps results"):
        J.at(X + 1)


def test_backward_inside_is_refused() -> None:
    def func(x: Tensor) -> Tensor:
        y = x.detach().requires_grad_()
        (y**2).sum().backward()
        return x * y.grad

    with pytest.raises(DerivativeError, match="backward"):
        local_jacobian(func, X)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_kink_at_the_point_is_no_reason_to_refuse(dtype: torch.dtype) -> None:
    J = local_jacobian(lambda x: (A.to(dtype) @ x).relu(), torch.zeros(4, dtype=dtype))
    assert not J.matmat(B.to(J.domain.dtype)).any()  # torch's subgradient of relu at 0
    assert dtype != F64 or any(check.detail == "func is rough here" for check in J.report.checks)


@pytest.mark.parametrize("offset", [1e8, 1e10, 1e12])
def test_rounding_of_large_terms_is_no_reason_to_refuse(offset: float) -> None:
    for x in (X, 0 * X):
        J = local_jacobian(lambda x: (offset + A @ x) - offset, x)
        assert relative(J.matmat(B), A @ B) < 1e-14


@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("kinks", [False, True])
def test_wrong_backward_is_refused_beside_kinks_and_rounding(
    monkeypatch: pytest.MonkeyPatch, offset: float, kinks: bool
) -> None:
    monkeypatch.setattr(Doubled, "factor", 1.1)

    def func(x: Tensor) -> Tensor:
        y = (offset + Doubled.apply(A @ x)) - offset
        return torch.cat([y, (x - X + 0.01).relu()]) if kinks else y

    with pytest.raises(DerivativeError, match="difference of values: FAILED"):
        local_jacobian(func, X).jvp(X)


def test_not_a_number_passes_through_unproven() -> None:
    J = local_jacobian(torch.sqrt, -X.abs())
    assert J.value.isnan().all() and J.jvp(X).shape == (4,)


def test_control_flow_is_followed_at_each_point() -> None:
    def func(x: Tensor) -> Tensor:
        return x**2 if float(x.sum()) > 0 else x**3

    J = local_jacobian(func, X.abs())
    assert relative(dense(J)[0], torch.diag(2 * X.abs())) < 1e-14
    assert relative(dense(J.at(-X.abs()))[0], torch.diag(3 * X**2)) < 1e-14


# ------------------------------------------------------------------------------------------ the user's state


def test_dropout_is_one_noise_and_the_generator_stands() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    J = local_jacobian(lambda x: F.dropout(A @ x, 0.5), X)
    first, again = dense(J)[0], dense(J.at(X))[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    kept = first.any(dim=1)
    assert kept.any() and not kept.all() and relative(first[kept], 2 * A[kept]) < 1e-14


def test_buffers_and_grad_stay() -> None:
    module = nn.BatchNorm1d(3).double()
    data = normal(5, 3, seed=77)
    params = dict(module.named_parameters())
    J = local_jacobian(lambda p: torch.func.functional_call(module, p, (data,)), params)
    dense(J)
    assert not module.running_mean.any() and int(module.num_batches_tracked) == 0
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_modes_without_gradients(mode: Any) -> None:
    with mode():
        J = local_jacobian(lambda x: (A @ x).sin(), X)
        got = J.matmat(B), J.rmatmat(A), J.jvp(X)
    expected = (A @ X).cos().unsqueeze(1) * A
    assert relative(got[0], expected @ B) < 1e-14
    assert relative(got[1], expected.mT @ A) < 1e-14 and relative(got[2], expected @ X) < 1e-14


def test_exception_in_func_passes_through_and_leaves_the_generator() -> None:
    def func(x: Tensor) -> Tensor:
        torch.rand(3)
        raise KeyError("mine")

    before = torch.get_rng_state()
    with pytest.raises(KeyError, match="mine"):
        local_jacobian(func, X)
    assert torch.equal(torch.get_rng_state(), before)


def test_interrupt_waits_for_the_end_of_the_derivative() -> None:
    calls = []

    def func(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return (A @ x).sin()

    J = local_jacobian(func, X)
    with pytest.raises(KeyboardInterrupt):
        J.jvp(X)
    assert relative(J.jvp(X), (A @ X).cos() * (A @ X)) < 1e-14


# -------------------------------------------------------------------------------------------------- errors


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="strategy must be one of 'auto', 'double-backward', 'forward'"):
        local_jacobian(torch.sin, X, strategy="reverse")
    with pytest.raises(OutputError, match="real floating point"):
        local_jacobian(lambda x: (x > 0).long(), X)
    with pytest.raises(OutputError, match="at least one tensor"):
        local_jacobian(lambda x: None if x is None else (), X)
    with pytest.raises(TypeError, match="must be a tensor"):
        local_jacobian(torch.sin, 1.0)


@pytest.mark.parametrize(
    ("product", "words"),
    [
        (lambda J: J.matmat(X), r"X must have shape \(4, k\), got \(4,\)"),
        (lambda J: J.rmatmat(torch.eye(4, dtype=F64)), r"U must have shape \(6, k\), got \(4, 4\)"),
        (lambda J: J.matmat(torch.eye(4)), r"X must be torch.float64 .* got torch.float32"),
        (lambda J: J.jvp(X.float()), r"dtype of its like, torch.float64, got torch.float32"),
        (lambda J: J.jvp(X[:3]), r"expected a pytree like"),
        (lambda J: J.vjp({"a": X}), r"expected a pytree like"),
        (lambda J: J.at(X[:3]), r"must be like those of the first point"),
    ],
)
def test_bad_vectors(product: Callable[[LocalJacobian], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        product(local_jacobian(lambda x: A @ x, X))
