"""What functions do beside arithmetic: stop gradients, differentiate inside, branch, depend on nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.ad.awkward.case import F64, Case, Table
from tests.ad.awkward.layers import inputs

table = Table("control")

X = torch.tensor([0.3, -0.8, 1.2], dtype=F64)


def _stopped(stop: Callable[[Tensor], Any], constant_of: Callable[[Tensor], Any] = torch.exp) -> Case:
    """A product with a factor exp(x) that `stop` computes as a constant of autograd."""
    constant = constant_of(X)

    def combine(x: Tensor, factor: Any) -> Tensor:
        return (x**2 * factor).sum() * x.mean()

    return Case(lambda x: combine(x, stop(x)), (X.clone(),), lambda x: combine(x, constant))


@table.right(forward="wrong")
def no_grad_block() -> Case:
    """Forward mode does not know no_grad and differentiates through it."""

    def stop(x: Tensor) -> Tensor:
        with torch.no_grad():
            return x.exp()

    return _stopped(stop)


@table.right(forward="wrong")
def no_grad_block_with_writes() -> Case:
    def stop(x: Tensor) -> Tensor:
        with torch.no_grad():
            factor = torch.zeros_like(x)
            factor += x
            factor[:] = factor.exp()
            return factor

    return _stopped(stop)


@table.right(forward="wrong")
def no_grad_decorator() -> Case:
    return _stopped(torch.no_grad()(torch.exp))


@table.right(forward="wrong")
def set_grad_enabled_off() -> Case:
    def stop(x: Tensor) -> Tensor:
        with torch.set_grad_enabled(False):
            return x.exp() * 1.0

    return _stopped(stop)


@table.right(forward="wrong")
def nested_no_grad_and_enable_grad() -> Case:
    def stop(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x.exp()
            with torch.enable_grad():
                return y * 1.0

    return _stopped(stop)


@table.right(forward="wrong")
def data_attribute() -> Case:
    return _stopped(lambda x: x.data.exp())


@table.right()
def detached() -> Case:
    return _stopped(lambda x: x.detach().exp())


@table.right()
def detached_after_use() -> Case:
    return _stopped(lambda x: x.exp().detach())


@table.right()
def item() -> Case:
    """A number taken out of a tensor is a constant."""
    return _stopped(lambda x: x.exp().sum().item(), lambda x: float(x.exp().sum()))


@table.right(forward="raises")
def detached_numpy() -> Case:
    return _stopped(lambda x: torch.from_numpy(x.detach().numpy().copy()).exp())


@table.right()
def straight_through_by_detach() -> Case:
    """x + (round(x) - x).detach(): the residual is a constant, the derivative goes straight through."""
    residual = X.round() - X

    def combine(x: Tensor, r: Tensor) -> Tensor:
        return ((x + r) ** 2).sum() * x.mean()

    return Case(lambda x: combine(x, (x.round() - x).detach()), (X.clone(),), lambda x: combine(x, residual))


@table.right(forward="raises")
def gradient_penalty_inside() -> Case:
    """A physics-informed loss: the gradient with respect to an input, inside the function."""
    points = inputs(5, 1)

    def truth(w: Tensor) -> Tensor:
        slope = w * (1 - (points * w).tanh() ** 2)
        return ((slope.sum(1) - 1) ** 2).mean() + (w**4).sum()

    def func(w: Tensor) -> Tensor:
        x = points.clone().requires_grad_()
        u = (x * w).tanh().sum()
        slope = torch.autograd.grad(u, x, create_graph=True)[0]
        return ((slope.sum(1) - 1) ** 2).mean() + (w**4).sum()

    return Case(func, (X.clone(),), truth)


@table.right()
def functorch_gradient_inside() -> Case:
    def func(x: Tensor) -> Tensor:
        return (torch.func.grad(lambda y: (y**3 * x).sum())(x.sin()) * x).sum()

    return Case(func, (X.clone(),), lambda x: (3 * x.sin() ** 2 * x * x).sum())


@table.right()
def functorch_vmap_inside() -> Case:
    A = inputs(4, 3)
    return Case(
        lambda x: torch.func.vmap(lambda a: (a @ x).sin() * x.sum())(A).sum(),
        (X.clone(),),
        lambda x: ((A @ x).sin() * x.sum()).sum(),
    )


@table.right()
def functorch_jvp_inside() -> Case:
    def func(x: Tensor) -> Tensor:
        return (torch.func.jvp(lambda y: y**3, (x,), (torch.ones_like(x),))[1] * x).sum()

    return Case(func, (X.clone(),), lambda x: (3 * x**3).sum())


@table.right()
def functorch_hessian_inside() -> Case:
    def func(x: Tensor) -> Tensor:
        return torch.func.hessian(lambda y: (y**4).sum())(x).diagonal().sum()

    return Case(func, (X.clone(),), lambda x: (12 * x**2).sum())


@table.refused(forward="raises", reverse="wrong", match="backward")
def backward_inside() -> Case:
    """.backward() writes into .grad, which the outer derivative cannot see through."""

    def func(x: Tensor) -> Tensor:
        y = (x.detach() * 2).requires_grad_()
        (y**3).sum().backward()
        return (y.grad * x).sum() * x.sum()

    return Case(func, (X.clone(),), lambda x: ((3 * (2 * x) ** 2) * x).sum() * x.sum())


@table.refused(forward="raises", reverse="wrong", match="backward")
def functional_backward_inside() -> Case:
    def func(x: Tensor) -> Tensor:
        y = (x.detach() * 2).requires_grad_()
        torch.autograd.backward((y**3).sum())
        return (y.grad * x).sum() * x.sum()

    return Case(func, (X.clone(),), lambda x: ((3 * (2 * x) ** 2) * x).sum() * x.sum())


@table.refused(forward="raises", reverse="wrong", slow=True)
def cond() -> Case:
    """torch.cond has a gradient; its double backward is silently zero."""

    def func(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: (y.sin() * y).sum(), lambda y: (y**2).sum(), (x,))

    return Case(func, (X.clone(),), lambda x: (x.sin() * x).sum())


@table.right()
def python_branch_on_values() -> Case:
    def func(x: Tensor) -> Tensor:
        return (x.sin() * x).sum() if x.sum() > 0 else (x**2).sum()

    return Case(func, (X.clone(),), lambda x: (x.sin() * x).sum())


@table.refused(forward="wrong", reverse="raises", match="no_grad")
def all_under_no_grad() -> Case:
    """The value moves with x and carries no derivative: zeros would be a lie."""

    @torch.no_grad()
    def func(x: Tensor) -> Tensor:
        return (x**3).sum()

    return Case(func, (X.clone(),), lambda x: (x**3).sum())


@table.refused(forward="raises", reverse="raises", match="NumPy")
def all_through_numpy() -> Case:
    return Case(lambda x: torch.tensor((x.detach().numpy() ** 3).sum()), (X.clone(),), lambda x: (x**3).sum())


@table.refused(forward="wrong", reverse="raises", match="item")
def all_through_item() -> Case:
    return Case(lambda x: torch.tensor((x**3).sum().item(), dtype=F64), (X.clone(),), lambda x: (x**3).sum())


@table.refused(forward="wrong", reverse="raises", match="no_grad")
def detached_and_all_under_no_grad() -> Case:
    def func(x: Tensor) -> Tensor:
        with torch.no_grad():
            return (x.detach() ** 3).sum()

    return Case(func, (X.clone(),), lambda x: (x**3).sum())


@table.right(reverse="raises")
def all_detached() -> Case:
    """The user cut the whole value off by name: it is a constant of autograd."""
    return Case(lambda x: (x**3).sum().detach(), (X.clone(),), product=lambda v: (0 * v,))


@table.right(reverse="raises")
def constant_function() -> Case:
    return Case(lambda x: torch.tensor(2.0, dtype=F64), (X.clone(),), product=lambda v: (0 * v,))


@table.right()
def linear_function() -> Case:
    return Case(lambda x: (2 * x).sum(), (X.clone(),), product=lambda v: (0 * v,))


@table.right()
def some_primals_unused() -> Case:
    return Case(lambda x, y: (x**3).sum(), (X.clone(), X.clone()), product=lambda v, w: (6 * X * v, 0 * w))


@table.right(forward="raises")
def retain_grad_inside() -> Case:
    def func(x: Tensor) -> Tensor:
        y = x.sin()
        if y.requires_grad:
            y.retain_grad()
        return (y * x).sum()

    return Case(func, (X.clone(),), lambda x: (x.sin() * x).sum())


@table.right()
def writes_in_place_to_an_intermediate() -> Case:
    def func(x: Tensor) -> Tensor:
        y = x.clone()
        y *= x
        y[0] = x[1] ** 3
        y.exp_()
        return y.sum()

    return Case(func, (X.clone(),), lambda x: (x[1] ** 3).exp() + (x[1] ** 2).exp() + (x[2] ** 2).exp())


@table.right()
def writes_in_place_with_a_mask() -> Case:
    def func(x: Tensor) -> Tensor:
        y = (x * x).clone()
        y[x < 0] = 0
        return (y * x).sum()

    return Case(func, (X.clone(),), lambda x: x[0] ** 3 + x[2] ** 3)


@table.right(forward="wrong", reverse="wrong")
def custom_noise_with_a_generator() -> Case:
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    noise = torch.randn(3, generator=generator, dtype=F64)
    generator.set_state(state)
    return Case(
        lambda x: (torch.randn(3, generator=generator, dtype=F64) * x**3).sum(),
        (X.clone(),),
        product=lambda v: (6 * noise * X * v,),
        differences=False,
    )


@table.refused(raises=ZeroDivisionError, match="mine")
def its_own_exception() -> Case:
    def func(x: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    return Case(func, (X.clone(),), differences=False)


@table.refused(raises=RuntimeError, match="must match the size")
def its_own_runtime_error() -> Case:
    """An error of the function itself passes through as it is, and is not taken for a missing derivative."""
    return Case(lambda x: (x + torch.ones(4, dtype=F64)).sum(), (X.clone(),), differences=False)
