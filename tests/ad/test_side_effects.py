"""Nothing of the user's changes: after success, after an exception; and equal calls are equal bit by bit."""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo  # checkpointing imports it, and with it SymPy, which adds a filter of warnings
import torch.utils.checkpoint as checkpoint_module
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import hvplib
from tests.ad.awkward.case import F64, directions


class Net(nn.Module):
    """Every kind of state: buffers written in training, dropout, attention, recurrence, checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.recurrent = nn.LSTM(4, 4, batch_first=True)
        self.dropout = nn.Dropout(0.3)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.last = nn.Linear(4, 1)
        self.teacher = nn.BatchNorm1d(4, affine=False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1  # the only thing that may change: the module counts for itself
        x = self.norm(self.first(x)).tanh()
        x = checkpoint_module.checkpoint(self._middle, x, use_reentrant=False)
        with torch.no_grad():
            target = self.teacher(x)
        return self.last(self.spectral(x) + target)

    def _middle(self, x: Tensor) -> Tensor:
        out, _state = self.recurrent(self.dropout(x)[:, None])
        q = out.reshape(1, 2, -1, 4)
        return nn.functional.scaled_dot_product_attention(q, q, q).reshape(-1, 4)


class Setting:
    """A module in use: gradients there, one parameter frozen, hooks registered, one child in evaluation."""

    def __init__(self, dtype: torch.dtype = F64) -> None:
        torch.manual_seed(0)
        self.net = Net().to(dtype)
        self.net.last.bias.requires_grad_(False)
        self.net.dropout.eval()
        self.net.dropout.train()
        self.net.norm.momentum = 0.2
        self.x = torch.randn(6, 4, dtype=dtype)
        self.generator = torch.Generator().manual_seed(7)
        self.seen: list[int] = []
        self.net.last.register_forward_hook(lambda *_: self.seen.append(1))
        for p in self.net.parameters():
            p.grad = torch.full_like(p, 0.5) if p.requires_grad else None
        self.params = dict(self.net.named_parameters())

    def func(self, params: dict[str, Tensor]) -> Tensor:
        noise = torch.randn(6, 1, generator=self.generator, dtype=self.x.dtype)
        noise = noise + random.random() + float(np.random.random())
        return ((functional_call(self.net, params, self.x) - noise) ** 2).mean()

    def snapshot(self) -> dict[str, Any]:
        """Everything that must be bitwise as before."""
        tensors = {**dict(self.net.named_parameters()), **dict(self.net.named_buffers()), "x": self.x}
        return {
            **{f"value of {k}": t.detach().clone() for k, t in tensors.items()},
            **{f"address of {k}": t.data_ptr() for k, t in tensors.items()},
            **{f"version of {k}": t._version for k, t in self.net.named_parameters()},
            **{f"grad of {k}": None if t.grad is None else t.grad.clone() for k, t in tensors.items()},
            **{f"grad is leaf {k}": (t.requires_grad, t.is_leaf, t.grad_fn) for k, t in tensors.items()},
            **{
                f"hooks of {k}": (t._backward_hooks, t._post_accumulate_grad_hooks)
                for k, t in tensors.items()
            },
            **{f"type of {k}": type(t) for k, t in tensors.items()},
            **{f"mode of {k}": m.training for k, m in self.net.named_modules()},
            **{
                f"hooks on {k}": (len(m._forward_hooks), len(m._backward_hooks), len(m._forward_pre_hooks))
                for k, m in self.net.named_modules()
            },
            **{f"attributes of {k}": sorted(vars(m)) for k, m in self.net.named_modules()},
            "explicit generator": self.generator.get_state(),
            **process_state(),
        }


def process_state() -> dict[str, Any]:
    """Settings and generators of the process."""
    numpy_state = np.random.get_state(legacy=False)
    return {
        "torch generator": torch.get_rng_state(),
        "numpy generator": json.dumps(numpy_state, default=lambda a: a.tolist()),
        "python generator": random.getstate(),
        "scripted execution": torch._C._get_graph_executor_optimize(),
        "checkpoint function": checkpoint_module.CheckpointFunction,
        "checkpoint generator": checkpoint_module._checkpoint_without_reentrant_generator,
        "checkpoint early stop": checkpoint_module._enable_checkpoint_early_stop,
        "apply of custom functions": torch.autograd.Function.__dict__.get("apply"),
        "mkldnn": torch.backends.mkldnn.enabled,
        "mkldnn deterministic": torch.backends.mkldnn.deterministic,
        "cudnn": (
            torch.backends.cudnn.enabled,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
        ),
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "math": torch.backends.cuda.math_sdp_enabled(),
        "cudnn attention": torch.backends.cuda.cudnn_sdp_enabled(),
        "attention priority": torch._C._get_sdp_priority_order(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "forward level": torch.autograd.forward_ad._current_level,
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "functorch level": torch._C._functorch.maybe_current_level(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default dtype": torch.get_default_dtype(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "threads": torch.get_num_threads(),
        "warning filters": list(warnings.filters),
        "interrupt handler": signal.getsignal(signal.SIGINT),
        "python hooks": (sys.excepthook, threading.excepthook),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, old in before.items():
        new = after[name]
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            same = old.dtype == new.dtype and old.shape == new.shape
            same = same and torch.equal(_bytes(old), _bytes(new))
        else:
            same = old == new
        assert same, f"{name} changed from {old} to {new}"


def _bytes(t: Tensor) -> Tensor:
    return t.detach().reshape(-1).contiguous().view(torch.uint8)


def _local(setting: Setting, v: Any) -> Any:
    model = hvplib.local_model(setting.func, setting.params)
    model.hvp(v)
    return model.hvp(v)


def _block(setting: Setting, v: Any) -> Any:
    model = hvplib.local_model(setting.func, setting.params)
    return model.hvp_block({k: torch.stack([t, -t]) for k, t in v.items()})


@torch.no_grad()
def _under_no_grad(setting: Setting, v: Any) -> Any:
    """With an operation that forward mode lacks, so that the ladder goes on."""

    def func(params: dict[str, Tensor]) -> Tensor:
        return setting.func(params) + nn.functional.mse_loss(
            params["last.weight"], torch.zeros(1, 4).to(setting.x)
        )

    return hvplib.hvp(func, setting.params, v)


USES: dict[str, Callable[[Setting, Any], Any]] = {
    "hvp": lambda s, v: hvplib.hvp(s.func, s.params, v),
    "forward": lambda s, v: hvplib.hvp(s.func, s.params, v, strategy="forward-over-reverse"),
    "reverse": lambda s, v: hvplib.hvp(s.func, s.params, v, strategy="reverse-over-reverse"),
    "difference": lambda s, v: hvplib.hvp(s.func, s.params, v, strategy="finite-difference"),
    "under no_grad": _under_no_grad,
    "local model": _local,
    "block": _block,
    "check": lambda s, v: hvplib.check_hvp(s.func, s.params),
}
every_use = pytest.mark.parametrize("use", USES.values(), ids=USES.keys())


@every_use
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_success_leaves_everything_as_it_was(use: Callable[..., Any], dtype: torch.dtype) -> None:
    setting = Setting(dtype)
    v = directions(setting.params)
    before = setting.snapshot()
    use(setting, v)
    assert_same(before, setting.snapshot())
    assert setting.net.calls > 0, "the test is void if func was never called"


@every_use
@pytest.mark.parametrize(
    "error",
    [
        ValueError,
        KeyboardInterrupt,
        *(pytest.param(error, marks=pytest.mark.slow) for error in (RuntimeError, SystemExit, MemoryError)),
    ],
)
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("place", ["start", "middle"])
def test_exception_inside_func_leaves_everything_as_it_was(
    use: Callable[..., Any], error: type[BaseException], at: int, place: str
) -> None:
    setting = Setting()
    v = directions(setting.params)
    plain, middle = setting.func, setting.net._middle
    count = {"calls": 0}

    def strike(go_on: Callable[[Any], Tensor], argument: Any) -> Tensor:
        count["calls"] += 1
        if count["calls"] == at:
            raise error("from inside")
        return go_on(argument)

    before = setting.snapshot()
    if place == "start":
        setting.func = lambda params: strike(plain, params)  # type: ignore[method-assign]
    else:
        object.__setattr__(setting.net, "_middle", lambda x: strike(middle, x))
    caught = None
    try:
        use(setting, v)
    except (error, hvplib.DerivativeError) as raised:
        caught = str(raised)
    # A failure that does not come back may have been a missing derivative; the others are the user's.
    may_be_swallowed = error in (ValueError, RuntimeError) or count["calls"] < at
    assert may_be_swallowed if caught is None else "from inside" in caught
    setting.func = plain  # type: ignore[method-assign]
    setting.net.__dict__.pop("_middle", None)
    assert_same(before, setting.snapshot())
    use(setting, v)
    assert_same(before, setting.snapshot())


def test_attention_kernel_chosen_by_the_user_stays_chosen() -> None:
    setting = Setting()
    v = directions(setting.params)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], set_priority=True):
        before = process_state()
        hvplib.hvp(setting.func, setting.params, v)
        assert_same(before, process_state())


@every_use
def test_calls_repeat_bit_by_bit(use: Callable[..., Any]) -> None:
    """Dropout, generators and buffers included: nothing that the first call did reaches the second."""
    setting = Setting()
    v = directions(setting.params)
    first, second = use(setting, v), use(setting, v)
    if not isinstance(first, dict):
        assert str(first) == str(second)
        return
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_products_of_one_local_model_repeat_bit_by_bit() -> None:
    setting = Setting()
    v = directions(setting.params)
    model = hvplib.local_model(setting.func, setting.params)
    products = [model.hvp(v) for _ in range(4)]
    for later in products[1:]:
        assert all(torch.equal(later[k], products[0][k]) for k in later)


def test_the_noise_is_that_of_a_plain_call() -> None:
    """The product belongs to the function with the noise that the user's next evaluation would have drawn."""
    setting = Setting()
    v = directions(setting.params)
    model = hvplib.local_model(setting.func, setting.params)
    product = hvplib.hvp(setting.func, setting.params, v)
    for k, t in model.hvp(v).items():
        torch.testing.assert_close(t, product[k], rtol=1e-8, atol=1e-10)
    # Other noise would show in the first digit; math attention rounds otherwise than the flash kernel.
    torch.testing.assert_close(model.value, setting.func(setting.params).detach(), rtol=1e-12, atol=0)


def plain(x: Tensor) -> Tensor:
    return (x.sin() * x * x).sum() + torch.tanh(x).prod()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_scripted_functions_repeat_bit_by_bit_and_stay_optimised() -> None:
    scripted = torch.jit.script(plain)
    x, v = torch.tensor([0.4, -0.7, 1.1], dtype=F64), torch.ones(3, dtype=F64)
    products = [hvplib.hvp(scripted, x, v) for _ in range(5)]
    assert all(torch.equal(p, products[0]) for p in products)
    torch.testing.assert_close(products[0], hvplib.hvp(plain, x, v), rtol=1e-12, atol=0)
    assert torch._C._get_graph_executor_optimize()
