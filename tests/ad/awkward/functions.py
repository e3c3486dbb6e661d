"""Custom autograd functions: what torch cannot know about them, a difference of gradients finds out."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tests.ad.awkward.case import F64, Case, Table

table = Table("functions")

X = torch.tensor([0.3, -0.8, 1.2], dtype=F64)


def _use(cube: Any) -> Any:
    """A function whose Hessian is wrong if the second derivative of `cube` is lost."""
    return lambda x: (cube(x) * x.sin()).sum() * x.mean()


def _case(function: type[Function]) -> Case:
    return Case(_use(function.apply), (X.clone(),), _use(lambda x: x**3))


class OldStyle(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class NewStyle(Function):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class WithJvp(NewStyle):
    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx, t):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * t


class WithWrongJvp(WithJvp):
    @staticmethod
    def jvp(ctx, t):
        (x,) = ctx.saved_tensors
        return 2 * x**2 * t


class OnceOld(OldStyle):
    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class OnceNew(NewStyle):
    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class DetachedResidualOld(OldStyle):
    @staticmethod
    def forward(ctx, x):
        ctx.slope = 3 * x.detach() ** 2
        return x**3

    @staticmethod
    def backward(ctx, g):
        return ctx.slope * g


class DetachedResidualNew(NewStyle):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.slope = 3 * inputs[0].detach() ** 2

    @staticmethod
    def backward(ctx, g):
        return ctx.slope * g


class NumpyBackwardOld(OldStyle):
    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(3 * x.detach().numpy() ** 2 * g.detach().numpy())


class NumpyBackwardNew(NewStyle):
    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(3 * x.detach().numpy() ** 2 * g.detach().numpy())


class NumpyForwardTorchBackward(OldStyle):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 3)


class StraightThrough(OldStyle):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class WrongGradient(OldStyle):
    """A backward that is no derivative of its forward: twice differentiable, and wrong from the first."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x**2 * g


class ClippedBackward(OldStyle):
    """Smooth forward, backward clipped: the second derivative is that of the clipped gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -g


class PartOfTheBackwardLost(OldStyle):
    """Differentiable in g, not in x: the double backward keeps a graph and is wrong all the same."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x.detach() ** 2 * g


@table.right(forward="raises")
def old_style() -> Case:
    return _case(OldStyle)


@table.right(forward="raises")
def new_style() -> Case:
    return _case(NewStyle)


@table.right()
def with_jvp() -> Case:
    return _case(WithJvp)


@table.right(forward="raises")
def numpy_forward() -> Case:
    return _case(NumpyForwardTorchBackward)


@table.right(forward="wrong")
def wrong_jvp() -> Case:
    """Forward mode believes the jvp; the difference does not, and reverse mode takes over."""
    return _case(WithWrongJvp)


@table.refused(forward="raises", reverse="wrong")
def once_differentiable_old() -> Case:
    return _case(OnceOld)


@table.refused(forward="raises", reverse="wrong")
def once_differentiable_new() -> Case:
    return _case(OnceNew)


@table.refused(forward="raises", reverse="wrong")
def detached_residual_old() -> Case:
    return _case(DetachedResidualOld)


@table.refused(forward="raises", reverse="wrong")
def detached_residual_new() -> Case:
    return _case(DetachedResidualNew)


@table.refused(forward="raises", reverse="wrong")
def numpy_backward_old() -> Case:
    return _case(NumpyBackwardOld)


@table.refused(forward="raises", reverse="wrong")
def numpy_backward_new() -> Case:
    return _case(NumpyBackwardNew)


@table.refused(forward="raises", reverse="wrong")
def part_of_the_backward_lost() -> Case:
    return _case(PartOfTheBackwardLost)


@table.refused(forward="raises", reverse="wrong")
def detached_residual_that_is_all_there_is() -> Case:
    """The gradient has no graph at all: it looks like that of a linear function."""
    return Case(lambda x: DetachedResidualOld.apply(x).sum(), (X.clone(),), lambda x: (x**3).sum())


@table.refused(forward="raises", reverse="wrong")
def straight_through() -> Case:
    """The estimator's gradient is a step function: no Hessian is its derivative."""
    return Case(
        lambda x: (StraightThrough.apply(x) ** 2).sum(), (X.clone(),), product=lambda v: (0 * v,), step=1e-4
    )


@table.refused(forward="raises", reverse="wrong")
def gradient_reversal() -> Case:
    """-g in backward: the field is no gradient, so its Jacobian is no Hessian (not symmetric)."""
    return Case(lambda x: (ClippedBackward.apply(x).sin() * x.prod()).sum(), (X.clone(),), differences=False)


@table.refused(forward="raises", reverse="wrong")
def wrong_gradient() -> Case:
    return Case(_use(WrongGradient.apply), (X.clone(),), differences=False)


@functools.cache  # an operator can be registered once
def _operator() -> Any:
    @torch.library.custom_op("hvplib_awkward::cube", mutates_args=())
    def cube(x: Tensor) -> Tensor:
        return x**3

    cube.register_autograd(
        lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g,
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
    )
    return cube


@table.right(forward="raises")
def custom_operator() -> Case:
    return Case(_use(_operator()), (X.clone(),), _use(lambda x: x**3))
