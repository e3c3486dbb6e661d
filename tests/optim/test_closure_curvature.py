"""Gradient and curvature of closures, and the proof of their products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hvplib.ad.engines import GraphEngine
from hvplib.errors import DerivativeError
from hvplib.optim.closure_curvature import GGN, HESSIAN, gradient, linearised, prove
from hvplib.optim.closures import Closure
from hvplib.optim.gauss_newton_product import GaussNewton

LABELS = torch.tensor([0, 2, 1, 1, 0, 2])


def mlp(activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 3)).double()


X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def product_matrix(B: Any, params: list[Tensor]) -> Tensor:
    sizes = [p.numel() for p in params]
    columns = []
    for unit in torch.eye(sum(sizes), dtype=torch.float64):
        v = [part.reshape(p.shape) for part, p in zip(unit.split(sizes), params, strict=True)]
        columns.append(torch.cat([g.reshape(-1) for g in B.product(v)]))
    return torch.stack(columns, dim=1)


def test_hessian_products_beside_torch_func_and_differences() -> None:
    model = mlp()
    params = list(model.parameters())
    closure = Closure(lambda: F.cross_entropy(model(X), LABELS))
    with closure.session():
        H = product_matrix(linearised(closure, closure.result(), params, HESSIAN), params)
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in params]

    def loss(theta: Tensor) -> Tensor:
        parts = zip(names, theta.split(sizes), params, strict=True)
        state = {name: part.reshape(p.shape) for name, part, p in parts}
        return F.cross_entropy(functional_call(model, state, (X,)), LABELS)

    theta = torch.cat([p.detach().reshape(-1) for p in params])
    torch.testing.assert_close(H, torch.func.hessian(loss)(theta), rtol=1e-9, atol=1e-11)
    slope, h = torch.func.grad(loss), 1e-5
    v = torch.randn(len(theta), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    difference = (slope(theta + h * v) - slope(theta - h * v)) / (2 * h)
    torch.testing.assert_close(H @ v, difference, rtol=1e-6, atol=1e-8)


def test_gradient_of_a_parameter_that_takes_no_part_is_zero() -> None:
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    result = Closure(lambda: a.square().sum()).result()
    assert [g.tolist() for g in gradient(result, [a, b])] == [[2, 2], [0, 0]]


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.GELU])
@pytest.mark.parametrize("curvature", [GGN, HESSIAN])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_right_products_pass_and_leave_the_parameters(
    activation: type[nn.Module], curvature: str, dtype: torch.dtype
) -> None:
    model, x = mlp(activation).to(dtype), X.to(dtype)
    params = list(model.parameters())
    before = [p.detach().clone() for p in params]

    def call() -> tuple[Tensor, Tensor]:
        z = model(F.dropout(x, 0.2))
        return F.cross_entropy(z, LABELS), z

    closure = Closure(call)
    with closure.session():
        checks = prove(closure, params, curvature)
    assert all(check.passed is not False for check in checks)
    assert {"closure called twice", "symmetry", "called twice"} < {check.name for check in checks}
    assert all(map(torch.equal, params, before))


def test_what_is_detached_counts_as_constant() -> None:
    """Differences would contradict the products if the detached part moved with the parameters."""
    model = mlp()

    def call() -> tuple[Tensor, Tensor]:
        z = model(X)
        return (z - model(2 * X).detach()).square().sum(), z

    for curvature in (GGN, HESSIAN):
        closure = Closure(call)
        with closure.session():
            checks = prove(closure, list(model.parameters()), curvature)
        assert checks[-1].passed


class WrongBackward(torch.autograd.Function):
    """z ↦ z³ with the derivative of 2 z³."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return 6 * z**2 * grads[0]


class WrongSecond(WrongBackward):
    """z ↦ z³ whose second derivative is lost."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return 3 * z.detach() ** 2 * grads[0]


class _Slope(WrongBackward):
    """z ↦ 3 z², as an operation of torch without a derivative."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return 3 * z**2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise RuntimeError("derivative for aten::_mine is not implemented")


class NoSecond(WrongBackward):
    """z ↦ z³ whose second derivative is missing."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Slope.apply(ctx.saved_tensors[0]) * grads[0]


class OnceOnly(WrongBackward):
    """z ↦ z³, differentiable once."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return 3 * z**2 * grads[0]


@pytest.mark.parametrize("where", ["model", "loss"])
@pytest.mark.parametrize("function", [WrongBackward, WrongSecond])
def test_wrong_derivatives_are_refused(function: type[WrongBackward], where: str) -> None:
    model = mlp()

    def call() -> tuple[Tensor, Tensor]:
        z = function.apply(model(X)) if where == "model" else model(X)
        return (z.square() if where == "model" else function.apply(z)).sum(), z

    curvatures = [HESSIAN] if (function, where) == (WrongSecond, "model") else [GGN, HESSIAN]
    for curvature in curvatures:
        closure = Closure(call)
        with pytest.raises(DerivativeError, match="do not stand up to the checks"), closure.session():
            prove(closure, list(model.parameters()), curvature)


def test_an_operation_differentiable_once_is_refused() -> None:
    model = mlp()
    for curvature in (GGN, HESSIAN):
        closure = Closure(lambda: (lambda z: (OnceOnly.apply(z).sum(), z))(model(X)))
        with pytest.raises(DerivativeError, match="do not stand up"), closure.session():
            prove(closure, list(model.parameters()), curvature)


@pytest.mark.parametrize("curvature", [GGN, HESSIAN])
def test_a_missing_derivative_is_named(curvature: str) -> None:
    model = mlp()

    def call() -> tuple[Tensor, Tensor]:
        z = model(X)
        return NoSecond.apply(z).sum(), z

    closure = Closure(call)
    with pytest.raises(DerivativeError, match=r"(?s)in the way is _mine.*Remedy"), closure.session():
        prove(closure, list(model.parameters()), curvature)


@pytest.mark.parametrize(
    ("owner", "method", "curvature", "failed"),
    [
        (GraphEngine, "product", HESSIAN, "difference of gradients"),
        (GaussNewton, "curve", GGN, "curvature of the loss against differences"),
        (GaussNewton, "pull", GGN, "outputs against differences"),
        (GaussNewton, "push", GGN, "adjoint"),
    ],
)
def test_products_that_are_wrong_by_a_factor_are_refused(
    owner: Any, method: str, curvature: str, failed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(owner, method)
    monkeypatch.setattr(owner, method, lambda self, v: [1.001 * part for part in right(self, v)])
    model = mlp()
    closure = Closure(lambda: (lambda z: (F.cross_entropy(z, LABELS), z))(model(X)))
    with pytest.raises(DerivativeError, match=f"{failed}: FAILED"), closure.session():
        prove(closure, list(model.parameters()), curvature)


class Cube(WrongBackward):
    """z ↦ z³, right."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * grads[0]


def test_what_no_difference_confirms_is_believed_of_torch_only() -> None:
    w = torch.linspace(1, 2, 5, dtype=torch.float64, requires_grad=True)
    here = w.detach().clone()

    def island(z: Tensor) -> Tensor:
        """No number anywhere else."""
        return (z * torch.where(w == here, 1.0, torch.nan)).sum()

    plain, custom = Closure(lambda: island(w**3)), Closure(lambda: island(Cube.apply(w)))
    with plain.session():
        checks = prove(plain, [w], HESSIAN)
    assert [check.passed for check in checks] == [True, True, True, None, None]
    with pytest.raises(DerivativeError, match="custom autograd function"), custom.session():
        prove(custom, [w], HESSIAN)


def test_a_closure_that_changes_from_call_to_call_is_refused() -> None:
    model, batches = mlp(), iter(X.split(2))

    def call() -> Tensor:
        return model(next(batches)).square().sum()

    closure = Closure(call)
    with pytest.raises(DerivativeError, match=r"another loss when it is called again.*draw the batch before"):
        prove(closure, list(model.parameters()), HESSIAN)


def test_without_outputs_there_is_no_gauss_newton_matrix() -> None:
    model = mlp()
    closure = Closure(lambda: model(X).square().sum())
    with pytest.raises(ValueError, match=r'must return \(loss, outputs\).*or use curvature="hessian"'):
        linearised(closure, closure.result(), list(model.parameters()), GGN)


def test_a_loss_that_is_no_number_is_not_examined() -> None:
    w = torch.ones(2, requires_grad=True)
    closure = Closure(lambda: (w * torch.nan).sum())
    assert [check.name for check in prove(closure, [w], HESSIAN)] == ["closure called twice"]
