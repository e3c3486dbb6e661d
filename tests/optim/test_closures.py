"""A closure called many times as if once: noise, buffers, and what it may return."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hvplib.optim.closures import Closure


def buffers(module: nn.Module) -> list[Tensor]:
    return [b.clone() for b in module.buffers()]


def test_noise_is_replayed_and_left_as_after_one_call() -> None:
    w = torch.ones(3, requires_grad=True)
    own = torch.Generator().manual_seed(5)

    def noisy() -> Tensor:
        noise = torch.randn(3) + torch.randn(3, generator=own)
        return (w * noise).sum() * (1 + random.random()) * (1 + np.random.rand())

    def draws() -> tuple[float, ...]:
        return (
            float(torch.rand(())),
            float(torch.rand((), generator=own)),
            random.random(),
            np.random.rand(),
        )

    def seeded() -> None:
        torch.manual_seed(1)
        own.manual_seed(5)
        random.seed(2)
        np.random.seed(3)

    seeded()
    expected = float(noisy().detach())
    after_one = draws()
    seeded()
    closure = Closure(noisy)
    with closure.session():
        assert [closure.value() for _ in range(3)] == [expected] * 3
    after_none = draws()
    assert after_none != after_one
    closure.settle()
    assert draws() == after_one


def test_an_exception_leaves_generators_as_before() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()

    def failing() -> Tensor:
        torch.rand(3)
        raise KeyError("mine")

    closure = Closure(failing)
    with pytest.raises(KeyError, match="mine"), closure.session():
        closure.value()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh()),
        lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)),
        lambda: nn.Sequential(*[nn.BatchNorm1d(4, momentum=None)] * 2),  # one layer, twice in one call
    ],
    ids=["batch norm", "instance norm", "spectral norm", "twice"],
)
def test_buffers_are_updated_as_by_one_forward_pass(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().double()
    x, w = torch.randn(8, 4).double() + 1, torch.ones(1, dtype=torch.float64, requires_grad=True)
    before = buffers(model)
    closure = Closure(lambda: (w * model(x).square()).sum())
    with closure.session():
        first = closure.value()
        assert closure.value() == closure.value() == first
    assert all(map(torch.equal, buffers(model), before))
    closure.settle()
    ours = buffers(model)
    for buffer, old in zip(model.buffers(), before, strict=True):
        buffer.copy_(old)
    assert first == pytest.approx(float((w * model(x).square()).sum().detach()), rel=1e-12)
    assert any(not torch.equal(a, b) for a, b in zip(ours, before, strict=True))
    for a, b in zip(ours, buffers(model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0.0)


def test_statistics_are_left_alone_where_asked() -> None:
    model = nn.BatchNorm1d(3)
    before = buffers(model)
    closure = Closure(lambda: model(torch.randn(5, 3)).square().sum(), updates_statistics=False)
    with closure.session():
        closure.value()
    closure.settle()
    assert all(map(torch.equal, buffers(model), before))


def test_a_closure_in_inference_or_no_grad_mode_is_differentiable() -> None:
    w = torch.ones(3, requires_grad=True)
    closure = Closure(lambda: w.square().sum())
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode, closure.session():
            assert closure.result().loss.requires_grad


W = torch.ones(3, requires_grad=True)


def with_backward() -> Tensor:
    loss = (torch.ones(3, requires_grad=True) * W).sum()
    loss.backward()
    return loss


@pytest.mark.parametrize(
    ("returned", "kind", "message"),
    [
        (lambda: 3.0, TypeError, r"loss as a tensor, got float.*\.item"),
        (lambda: W * 2, ValueError, r"scalar loss, got \(3,\).*mean"),
        (lambda: torch.tensor(1), ValueError, "scalar loss, got .* of torch.int64"),
        (lambda: W.sum().detach(), ValueError, "without a graph.*no_grad"),
        (lambda: (W.sum(), W * 2, 3), TypeError, "a pair .*got 3 values"),
        (lambda: (W.sum(), "text"), TypeError, "real floating point tensors as outputs, got str"),
        (lambda: (W.sum(), torch.tensor([1])), TypeError, "got torch.int64"),
        (lambda: (W.sum(), W), ValueError, r"returned a parameter as an output.*clone"),
        (with_backward, RuntimeError, r"without calling backward\(\)"),
    ],
)
def test_what_it_may_not_return(returned: Callable[[], Any], kind: type[Exception], message: str) -> None:
    closure = Closure(returned, name="my closure")
    with pytest.raises(kind, match=f"(?s)my closure.*{message}"), closure.session():
        closure.result()
    W.grad = None


def test_outputs_may_be_a_tree_and_constants_among_them_are_left_out() -> None:
    z = W * 2
    closure = Closure(lambda: (z.sum(), {"a": z, "b": [torch.ones(2), z + 1]}))
    with closure.session():
        result = closure.result()
    assert len(result.outputs) == 2
    assert result.loss.shape == ()
    assert Closure(lambda: (W * 2).sum().reshape(1, 1)).result().outputs == ()
