"""Each remedy on its own: what it does to a call, and that settings and tensors are as before after it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from hvplib.ad.guard import derivative
from hvplib.ad.objective import Objective
from hvplib.ad.remedies import Way
from hvplib.errors import DerivativeError
from tests.ad.problems import normal

X = normal(3, seed=200)
LEAF = tree_flatten(X)[1]


def run(func: Any, way: Way = "plain", x: Tensor = X) -> Objective:
    objective = Objective(func, LEAF)
    with objective.session():
        objective([x.detach().clone().requires_grad_()], way)
    return objective


def tangent(func: Any) -> Tensor:
    """The forward-mode derivative along (1, ..., 1)."""
    objective = Objective(func, LEAF)
    with derivative(), objective.session(), fwAD.dual_level():
        out = fwAD.unpack_dual(objective([fwAD.make_dual(X, torch.ones_like(X))], "forward"))
        return torch.zeros(()) if out.tangent is None else out.tangent


def backends() -> tuple[bool, ...]:
    cuda = torch.backends.cuda
    return (
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.math_sdp_enabled(),
        torch._C._get_cudnn_enabled(),
        torch._C._get_mkldnn_enabled(),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_attention_runs_in_the_math_context_and_flags_come_back(fails: bool) -> None:
    before = backends()
    q = normal(1, 1, 2, 3, seed=201)
    bad = normal(1, 1, 2, 5, seed=202)
    graphs: list[str] = []

    def func(x: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(q * x, bad if fails else q, q)
        graphs.append(out.grad_fn.name())
        return out.sum()

    if fails:
        with pytest.raises(RuntimeError):
            run(func)
    else:
        assert "math attention" in run(func).used
        assert graphs and not any("ScaledDotProduct" in name for name in graphs)
    assert backends() == before


@pytest.mark.parametrize("fails", [False, True])
def test_recurrence_flags_come_back_also_after_an_exception(fails: bool) -> None:
    before = backends()
    lstm = nn.LSTM(3, 2, dtype=torch.float64)
    state = (torch.zeros(1, 1, 2, dtype=torch.float64),) * 2
    weights = [] if fails else list(lstm.parameters())

    def func(x: Tensor) -> Tensor:
        return torch.lstm(x.reshape(1, 1, 3), state, weights, True, 1, 0.0, False, False, False)[0].sum()

    objective = Objective(func, LEAF)
    if fails:
        with pytest.raises((RuntimeError, IndexError)):
            objective([X], "plain")
    else:
        torch.testing.assert_close(objective([X], "plain"), lstm(X.reshape(1, 1, 3))[0].sum())
    assert objective.used == {"recurrence without cuDNN and MKL-DNN"}
    assert backends() == before


@pytest.mark.parametrize("module", [nn.BatchNorm1d(1), nn.InstanceNorm1d(1, track_running_stats=True)])
def test_running_statistics_stay_and_the_result_is_of_the_batch(module: nn.Module) -> None:
    module.double().train()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    out: list[Tensor] = []

    def func(x: Tensor) -> Tensor:
        out.append(module(x.reshape(1, 1, 3)))
        return out[-1].sum()

    run(func)
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    expected = (X - X.mean()) / (X.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(out[0].detach().reshape(-1), expected)


def test_batch_norm_in_evaluation_still_reads_its_statistics() -> None:
    mean, var = torch.full((1,), 2.0, dtype=torch.float64), torch.full((1,), 4.0, dtype=torch.float64)
    objective = Objective(lambda x: F.batch_norm(x.reshape(3, 1), mean, var, eps=0.0).sum(), LEAF)
    torch.testing.assert_close(objective([X], "plain"), ((X - 2) / 2).sum())


def no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 1


@pytest.mark.parametrize("stop", [lambda x: x.data, lambda x: x.detach(), torch.detach, no_grad])
def test_what_autograd_calls_constant_is_constant_in_forward_mode(stop: Any) -> None:
    # d/dx Σ x stop(x) along ones is Σ x; the product rule without the stop would give 2 Σ x.
    torch.testing.assert_close(tangent(lambda x: (x * stop(x)).sum()), X.sum())


def test_detaching_and_escaping_are_told_apart() -> None:
    detached = run(lambda x: (x * x.detach()).sum())
    assert detached.detached and not detached.escaped
    escaped = run(lambda x: (x * x.sum().item()).sum())
    assert escaped.escaped and not escaped.detached
    assert run(lambda x: (x * no_grad(x)).sum()).escaped


def test_backward_inside_is_refused_and_writes_nothing() -> None:
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)

    def func(x: Tensor) -> Tensor:
        loss = (x * weight).sum()
        loss.backward()
        return loss

    with pytest.raises(DerivativeError, match=r"torch\.autograd\.grad") as caught:
        run(func)
    assert caught.value.op == "backward" and weight.grad is None


def test_a_hook_may_look_but_not_change() -> None:
    seen: list[Tensor] = []
    x = X.clone().requires_grad_()

    def differentiate(hook: Any) -> Tensor:
        def func(x: Tensor) -> Tensor:
            y = x * 2
            y.register_hook(hook)
            return y.sum()

        return torch.autograd.grad(Objective(func, LEAF)([x], "plain"), x)[0]

    assert differentiate(seen.append).tolist() == [2, 2, 2]
    assert seen[0].tolist() == [1, 1, 1]
    with pytest.raises(DerivativeError, match="register_hook"):
        differentiate(lambda g: g * 3)


def test_a_generator_given_by_name_is_put_back() -> None:
    own = torch.Generator().manual_seed(4)
    before = own.get_state()
    run(lambda x: x.sum() * torch.rand((), generator=own))
    assert torch.equal(own.get_state(), before)


@pytest.mark.parametrize(
    "write",
    [
        lambda b, x: b.add_(1),
        lambda b, x: b.__setitem__(0, 5.0),
        lambda b, x: torch.add(b, 1, out=b),
        lambda b, x: F.relu(b, inplace=True),
        lambda b, x: b.__isub__(1),
    ],
)
def test_every_kind_of_write_is_undone(write: Any) -> None:
    buffer, seen = torch.tensor([-1.0, -2.0]), []

    def func(x: Tensor) -> Tensor:
        write(buffer, x)
        seen.append(buffer.tolist())
        return x.sum()

    run(func)
    assert seen[0] != [-1, -2] and buffer.tolist() == [-1, -2]


def test_singular_points_are_noted() -> None:
    at_zero = run(lambda x: (x * 0).norm())
    assert at_zero.singular and not at_zero.undefined
    angle = run(lambda x: torch.atan2(x * 0, x * 0).sum())
    assert angle.singular and angle.undefined
    assert not run(lambda x: x.norm()).singular


def test_a_way_that_is_wrong_in_torch_is_refused() -> None:
    factor = torch.eye(3, dtype=torch.float64)

    def func(x: Tensor) -> Tensor:
        return torch.ops.aten.cholesky_inverse(factor * x).sum()

    with pytest.raises(DerivativeError, match="wrong second derivative by forward"):
        run(func, "forward", X.abs() + 1)
    run(func, "reverse", X.abs() + 1)
