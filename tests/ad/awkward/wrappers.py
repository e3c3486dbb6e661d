"""What wraps a module or a weight: parametrizations, checkpoints, compilers, hooks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from hvplib import DerivativeError
from tests.ad.awkward.case import F64, Case, Table
from tests.ad.awkward.layers import inputs, of_module, parameters, squares

table = Table("wrappers")


def _normalised(name_g: str, name_v: str, x: Tensor, dim: int = 0) -> Any:
    """Linear map with weight g v / ‖v‖ along all dimensions but `dim`, written out."""

    def truth(p: dict[str, Tensor]) -> Tensor:
        v = p[name_v]
        length = (v * v).sum(1 - dim, keepdim=True).sqrt()
        return squares(x @ (p[name_g] * v / length).T + p["bias"])

    return truth


@table.right(forward="raises", reverse="wrong")
def weight_norm() -> Case:
    x = inputs(5, 4)
    net = parametrizations.weight_norm(nn.Linear(4, 3).double())
    truth = _normalised("parametrizations.weight.original0", "parametrizations.weight.original1", x)
    return of_module(net, x, truth=truth)


@table.right(forward="raises", reverse="wrong")
def weight_norm_last_dimension() -> Case:
    x = inputs(5, 4)
    net = parametrizations.weight_norm(nn.Linear(4, 3).double(), dim=1)
    truth = _normalised("parametrizations.weight.original0", "parametrizations.weight.original1", x, dim=1)
    return of_module(net, x, truth=truth)


@table.right(forward="raises", reverse="wrong")
def weight_norm_legacy() -> Case:
    x = inputs(5, 4)
    net = nn.utils.weight_norm(nn.Linear(4, 3).double())
    return Case(
        lambda p: squares(functional_call(net, p, x)),
        (parameters(net),),
        _normalised("weight_g", "weight_v", x),
    )


def _power_iteration(weight: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    u = nn.functional.normalize(weight @ v, dim=0, eps=1e-12)
    return u, nn.functional.normalize(weight.T @ u, dim=0, eps=1e-12)


def _spectral(*, train: bool) -> Case:
    x = inputs(5, 4)
    net = parametrizations.spectral_norm(nn.Linear(4, 3).double()).train(train)
    p = parameters(net)
    inner = net.parametrizations.weight[0]
    u, v = inner._u.clone(), inner._v.clone()
    name = "parametrizations.weight.original"
    if train:
        u, v = _power_iteration(p[name], u, v)

    def truth(q: dict[str, Tensor]) -> Tensor:
        weight = q[name] / (u @ q[name] @ v)
        return squares(x @ weight.T + q["bias"])

    return Case(lambda q: squares(functional_call(net, q, x)), (p,), truth)


@table.right()
def spectral_norm_in_evaluation() -> Case:
    return _spectral(train=False)


@table.right(forward="raises", reverse="wrong")
def spectral_norm_in_training() -> Case:
    """The power iteration runs under no_grad: u and v are constants of what is differentiated."""
    return _spectral(train=True)


@table.right()
def orthogonal_by_matrix_exponential() -> Case:
    return of_module(
        parametrizations.orthogonal(nn.Linear(3, 3).double(), orthogonal_map="matrix_exp"), inputs(5, 3)
    )


@table.right()
def orthogonal_by_cayley() -> Case:
    return of_module(
        parametrizations.orthogonal(nn.Linear(3, 3).double(), orthogonal_map="cayley"), inputs(5, 3)
    )


def _body() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 2)).double()


def _checkpointed(*, reentrant: bool, own: bool, module: bool = True) -> Case:
    net, x = _body(), inputs(5, 4)
    shift = 0.0 if own else 0.3

    def func(p: dict[str, Tensor]) -> Tensor:
        if module:
            # The idiom inside a model: the block recomputes with whatever parameters it holds by then.
            wrapped = _Checkpointed(net, reentrant)
            return squares(functional_call(wrapped, {f"net.{k}": q for k, q in p.items()}, x))
        return squares(checkpoint(lambda x, p: functional_call(net, p, x), x, p, use_reentrant=reentrant))

    reference = copy.deepcopy(net)
    return Case(func, (parameters(net, shift),), lambda p: squares(functional_call(reference, p, x)))


class _Checkpointed(nn.Module):
    def __init__(self, net: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.net, self.reentrant = net, reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.net, x.requires_grad_(), use_reentrant=self.reentrant)


@table.right(forward="raises")
def checkpoint_at_own_parameters() -> Case:
    return _checkpointed(reentrant=False, own=True)


@table.right(forward="raises", reverse="wrong")
def checkpoint_at_other_parameters() -> Case:
    return _checkpointed(reentrant=False, own=False)


@table.right(forward="raises", reverse="wrong")
def checkpoint_reentrant_at_own_parameters() -> Case:
    return _checkpointed(reentrant=True, own=True)


@table.right(forward="raises", reverse="wrong")
def checkpoint_reentrant_at_other_parameters() -> Case:
    return _checkpointed(reentrant=True, own=False)


@table.right(forward="raises")
def checkpoint_of_a_function_of_the_parameters() -> Case:
    return _checkpointed(reentrant=False, own=False, module=False)


@table.right(forward="raises", reverse="wrong")
def checkpoint_sequential_at_other_parameters() -> Case:
    net, x = _body(), inputs(5, 4)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint_sequential(self.net, 2, x, use_reentrant=False)

    wrapped, reference = Wrapped(), copy.deepcopy(net)
    return Case(
        lambda p: squares(functional_call(wrapped, {f"net.{k}": q for k, q in p.items()}, x)),
        (parameters(net, 0.3),),
        lambda p: squares(functional_call(reference, p, x)),
    )


@table.right(forward="raises")
def tensors_saved_on_the_cpu() -> Case:
    net, x = _body(), inputs(5, 4)

    def func(p: dict[str, Tensor]) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            return squares(functional_call(net, p, x))

    return Case(func, (parameters(net),), lambda p: squares(functional_call(net, p, x)))


@table.right(forward="raises")
def tensors_packed_by_hooks() -> Case:
    net, x = _body(), inputs(5, 4)

    def func(p: dict[str, Tensor]) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            return squares(functional_call(net, p, x))

    return Case(func, (parameters(net),), lambda p: squares(functional_call(net, p, x)))


@table.right(forward="wrong")
def scripted_function() -> Case:
    """Right on the first call; the profiling executor makes forward mode wrong from the second on."""

    def plain(x: Tensor) -> Tensor:
        return (x.sin() * x * x).sum() + torch.tanh(x).prod()

    return Case(torch.jit.script(plain), (inputs(4),), plain)


@table.right(forward="wrong")
def scripted_module() -> Case:
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    x, weight = inputs(5, 4), inputs(4, 4)
    scripted = torch.jit.script(net)
    return Case(lambda w: squares(scripted(x @ w)), (weight,), lambda w: squares(net(x @ w)))


@table.right()
def traced_function() -> Case:
    def plain(x: Tensor) -> Tensor:
        return (x.sin() * x * x).sum() + torch.tanh(x).prod()

    return Case(torch.jit.trace(plain, inputs(4)), (inputs(4),), plain)


@table.right(slow=True)
def compiled_module_eager() -> Case:
    net, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double(), inputs(5, 4)
    compiled = torch.compile(net, backend="eager")
    p = parameters(compiled)
    return Case(
        lambda p: squares(functional_call(compiled, p, x)),
        (p,),
        lambda p: squares(functional_call(net, {k.removeprefix("_orig_mod."): q for k, q in p.items()}, x)),
    )


@table.right(slow=True)
def compiled_function_aot_eager() -> Case:
    def plain(x: Tensor) -> Tensor:
        return (x.sin() * x * x).sum() + torch.tanh(x).prod()

    return Case(torch.compile(plain, backend="aot_eager"), (inputs(4),), plain)


@table.right(forward="raises")
def full_backward_hook_that_looks() -> Case:
    net, x = _body(), inputs(5, 4)
    reference = copy.deepcopy(net)
    net[1].register_full_backward_hook(lambda *_: None)
    return Case(
        lambda p: squares(functional_call(net, p, x)),
        (parameters(net),),
        lambda p: squares(functional_call(reference, p, x)),
    )


@table.right()
def forward_hook_that_changes_the_output() -> Case:
    net, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double(), inputs(5, 4)
    reference = copy.deepcopy(net)
    net.register_forward_hook(lambda _module, _args, output: output * 2)
    return Case(
        lambda p: squares(functional_call(net, p, x)),
        (parameters(net),),
        lambda p: squares(2 * functional_call(reference, p, x)),
    )


@table.refused(forward="wrong", reverse="wrong", raises=DerivativeError, match="hook")
def tensor_hook_that_scales_the_gradient() -> Case:
    """What torch returns as gradient is no gradient of the function: its Jacobian is not symmetric."""

    def func(x: Tensor) -> Tensor:
        inner = x.sin()
        if inner.requires_grad:
            inner.register_hook(lambda g: 2 * g)
        return (inner * inner * x).sum() * x.prod()

    return Case(func, (inputs(4),), differences=False)


@table.right()
def tensor_hook_that_looks() -> Case:
    def func(x: Tensor) -> Tensor:
        inner = x.sin()
        if inner.requires_grad:
            inner.register_hook(lambda g: None)
        return (inner * inner * x).sum()

    return Case(func, (inputs(4),), lambda x: (x.sin() ** 2 * x).sum())


@table.right()
def device_context() -> Case:
    def func(x: Tensor) -> Tensor:
        with torch.device("cpu"):
            return (torch.ones(4, dtype=F64) * x.sin() * x).sum()

    return Case(func, (inputs(4),), lambda x: (x.sin() * x).sum())
