"""Layers of torch.nn and losses, called through functional_call at parameters other than the module's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from tests.ad.awkward.case import F64, Case, Table

table = Table("layers")


def parameters(module: nn.Module, shift: float = 0.05) -> dict[str, Tensor]:
    """The module's parameters as a dict, moved away from those that it holds."""
    moved = {}
    for name, p in module.named_parameters():
        moved[name] = p.detach() + shift * torch.randn(p.shape, dtype=F64).to(p.dtype)
    return moved


def squares(output: Tensor) -> Tensor:
    """A loss with a dense Hessian in whatever it is given."""
    weight = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).reshape(output.shape)
    return (weight * output.sin() * output).sum()


def of_module(
    module: nn.Module, *inputs: Any, loss: Callable[[Any], Tensor] = squares, **options: Any
) -> Case:
    """loss(module(*inputs)) as a function of the module's parameters; the truth runs a copy in float64."""
    primals = (parameters(module),)
    reference = copy.deepcopy(module).double()
    wide = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]

    def truth(p: dict[str, Tensor]) -> Tensor:
        buffers = {name: b.clone() for name, b in reference.named_buffers()}
        return loss(functional_call(reference, {**p, **buffers}, tuple(wide)))

    options.setdefault("truth", truth)
    return Case(lambda p: loss(functional_call(module, p, inputs)), primals, **options)


def inputs(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, dtype=F64).to(dtype)


def of_layer(layer: nn.Module, *shape: int, **options: Any) -> Case:
    """The layer after a linear map, so that the Hessian reaches its input too."""
    return of_module(
        nn.Sequential(nn.Linear(shape[-1], shape[-1]), layer).double(), inputs(*shape), **options
    )


@table.right()
def tanh_network() -> Case:
    return of_module(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double(), inputs(5, 4))


@table.right(forward="raises")
def tanh_network_with_mse_loss() -> Case:
    """Mean squared error to a constant target: forward mode meets "ZeroTensors are immutable"."""
    target = inputs(5, 2)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    case = of_module(net, inputs(5, 4), loss=lambda y: F.mse_loss(y, target))
    return Case(case.func, case.primals)


@table.right()
def cross_entropy_with_smoothing_and_ignored() -> Case:
    target = torch.tensor([0, 2, -100, 1, 2])
    return of_module(
        nn.Linear(4, 3).double(), inputs(5, 4), loss=lambda y: F.cross_entropy(y, target, label_smoothing=0.1)
    )


@table.right(forward="raises")
def huber_loss() -> Case:
    target = inputs(5, 3)

    def truth(p):
        d = functional_call(net, p, x) - target
        return torch.where(d.abs() <= 1, d * d / 2, d.abs() - 0.5).mean()

    net, x = nn.Linear(4, 3).double(), inputs(5, 4)
    return Case(
        lambda p: F.huber_loss(functional_call(net, p, x), target), (parameters(net),), truth, step=1e-5
    )


@table.right()
def relu_network() -> Case:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    return of_module(net, inputs(5, 4), step=1e-5)


@table.right()
def convolution_channels_last() -> Case:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 1)
    ).double()
    return of_module(net, inputs(2, 2, 6, 6).to(memory_format=torch.channels_last), step=1e-4)


@table.right()
def transposed_convolution() -> Case:
    net = nn.Sequential(nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), nn.Tanh()).double()
    return of_module(net, inputs(2, 2, 3, 3))


@table.right()
def convolution_float32() -> Case:
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(6, 2))
    return of_module(net, inputs(3, 2, 8, dtype=torch.float32), rtol=1e-4)


@table.right()
def layer_norm() -> Case:
    return of_layer(nn.LayerNorm(4), 5, 4)


@table.right()
def rms_norm() -> Case:
    return of_layer(nn.RMSNorm(4), 5, 4)


@table.right()
def group_and_instance_norm() -> Case:
    return of_layer(nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU(), nn.InstanceNorm1d(4, affine=True)), 3, 4, 5)


@table.right()
def instance_norm_with_running_statistics() -> Case:
    return of_layer(nn.InstanceNorm1d(4, affine=True, track_running_stats=True), 3, 4, 5)


@table.right(forward="raises")
def batch_norm_in_training() -> Case:
    return of_layer(nn.BatchNorm1d(4), 5, 4)


@table.right(forward="raises")
def batch_norm_in_training_cumulative() -> Case:
    return of_layer(nn.BatchNorm1d(4, momentum=None), 5, 4)


@table.right()
def batch_norm_in_training_untracked() -> Case:
    return of_layer(nn.BatchNorm1d(4, track_running_stats=False), 5, 4)


@table.right()
def batch_norm_in_evaluation() -> Case:
    return of_layer(nn.BatchNorm1d(4).eval(), 5, 4)


@table.right(forward="raises")
def batch_norm_two_dimensions_float32() -> Case:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh())
    return of_module(net, inputs(3, 2, 5, 5, dtype=torch.float32), rtol=1e-4)


@table.right()
def dropout_in_training() -> Case:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 2)).double()
    return of_module(net, inputs(5, 4))


@table.right()
def feature_and_alpha_dropout() -> Case:
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Dropout1d(0.3), nn.SELU(), nn.AlphaDropout(0.3)).double()
    return of_module(net, inputs(3, 2, 6), step=1e-5)


@table.right()
def tied_weights() -> Case:
    first, last = nn.Linear(4, 4, bias=False).double(), nn.Linear(4, 4).double()
    last.weight = first.weight
    return of_module(nn.Sequential(first, nn.Tanh(), last), inputs(5, 4))


@table.right()
def frozen_parameters() -> Case:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    net[0].requires_grad_(False)
    x = inputs(5, 4)
    p = {name: value for name, value in parameters(net).items() if name.startswith("2.")}
    return Case(lambda p: squares(functional_call(net, p, x)), (p,))


@table.right()
def module_parameters_as_primals() -> Case:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = inputs(5, 4)
    return Case(lambda p: squares(functional_call(net, p, x)), (dict(net.named_parameters()),))


TOKENS = torch.tensor([[1, 0, 3], [2, 0, 4]])


def _masked(p: dict[str, Tensor], name: str, row: int, at: Tensor) -> dict[str, Tensor]:
    """The parameters with one row frozen at the point, as autograd treats a padding row."""
    weight = p[name].clone()
    weight[row] = at[row]
    return {**p, name: weight}


def _embedding(
    padding: int | None, **options: Any
) -> tuple[nn.Module, dict[str, Tensor], Callable[..., Tensor]]:
    net = nn.Sequential(
        nn.Embedding(5, 3, padding_idx=padding, **options), nn.Tanh(), nn.Linear(3, 2)
    ).double()
    p = parameters(net)

    def truth(q: dict[str, Tensor]) -> Tensor:
        q = _masked(q, "0.weight", padding, p["0.weight"]) if padding is not None else q
        return squares(F.linear(q["0.weight"][TOKENS].tanh(), q["2.weight"], q["2.bias"]))

    return net, p, truth


@table.right()
def embedding() -> Case:
    net, p, truth = _embedding(None)
    return Case(lambda p: squares(functional_call(net, p, TOKENS)), (p,), truth)


@table.right(forward="wrong")
def embedding_with_padding_in_the_data() -> Case:
    """Forward mode differentiates the padding row, which reverse mode holds constant."""
    net, p, truth = _embedding(0)
    return Case(lambda p: squares(functional_call(net, p, TOKENS)), (p,), truth)


@table.right(forward="wrong")
def embedding_with_negative_padding() -> Case:
    weight = inputs(5, 3)
    primals = ({"w": weight.clone()},)
    return Case(
        lambda q: squares(F.embedding(TOKENS, q["w"], padding_idx=-1).sum(1)),
        primals,
        lambda q: squares(_masked(q, "w", 4, weight)["w"][TOKENS].sum(1)),
    )


@table.right(forward="raises", reverse="raises")
def embedding_sparse() -> Case:
    net, p, truth = _embedding(None, sparse=True)
    return Case(lambda p: squares(functional_call(net, p, TOKENS)), (p,), truth)


@table.refused(forward="wrong", reverse="wrong", match="max_norm")
def embedding_with_max_norm() -> Case:
    """The forward pass rescales the weight in place: the function has no derivative worth the name."""
    net, p, _ = _embedding(None, max_norm=0.5)
    return Case(lambda p: squares(functional_call(net, p, TOKENS)), (p,), differences=False)


def _bag(mode: str, **options: Any) -> Case:
    offsets = torch.tensor([0, 2, 5])
    tokens = torch.tensor([1, 2, 3, 3, 0, 4])
    weights = inputs(6) if mode == "sum" else None
    weight = inputs(5, 3)

    def reduce(rows: Tensor, weights: Tensor | None) -> Tensor:
        if mode == "sum" and weights is not None:
            return (rows * weights[:, None]).sum(0)
        return rows.sum(0) if mode == "sum" else rows.mean(0) if mode == "mean" else rows.amax(0)

    def truth(w: Tensor) -> Tensor:
        pieces = [(0, 2), (2, 5), (5, 6)]
        bags = [reduce(w[tokens[a:b]], None if weights is None else weights[a:b]) for a, b in pieces]
        return squares(torch.stack(bags))

    def func(w: Tensor) -> Tensor:
        return squares(F.embedding_bag(tokens, w, offsets, mode=mode, per_sample_weights=weights, **options))

    return Case(func, (weight,), truth, step=1e-5)


@table.right(forward="raises", reverse="raises")
def embedding_bag_sum() -> Case:
    return _bag("sum")


@table.right(forward="raises", reverse="raises")
def embedding_bag_mean() -> Case:
    return _bag("mean")


@table.right(forward="raises", reverse="raises")
def embedding_bag_max() -> Case:
    return _bag("max")


@table.right(forward="raises", reverse="raises")
def embedding_bag_sparse() -> Case:
    return _bag("sum", sparse=True)


@table.right()
def autocast_bfloat16_inside() -> Case:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    case = of_module(net, inputs(5, 4, dtype=torch.float32), rtol=5e-2)

    def func(p: dict[str, Tensor]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return case.func(p)

    return Case(func, case.primals, case.truth, rtol=5e-2)


@table.right()
def bfloat16_parameters() -> Case:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).to(torch.bfloat16)
    return of_module(net, inputs(5, 4, dtype=torch.bfloat16), rtol=2e-1)
