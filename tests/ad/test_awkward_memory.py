"""Nothing is kept that is not needed, and a memory cap is met by smaller chunks."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hvplib
from tests.ad.awkward.case import F64

ROOT = Path(__file__).resolve().parents[2]


def live_tensors() -> int:
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # isinstance imports deprecated aliases along the way
        return sum(isinstance(thing, Tensor) for thing in gc.get_objects())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident size from /proc")
@pytest.mark.parametrize("calls", [150, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["hvp", "fall-back", "local model"])
def test_memory_does_not_grow(kind: str, calls: int) -> None:
    target = torch.zeros(40, dtype=F64)
    x, v = torch.linspace(-1, 1, 40, dtype=F64), torch.ones(40, dtype=F64)

    def smooth(x: Tensor) -> Tensor:
        return (x.sin() * x).square().sum()

    def with_mse(x: Tensor) -> Tensor:
        return nn.functional.mse_loss(x.sin(), target)

    def call() -> None:
        if kind == "local model":
            hvplib.local_model(with_mse, x).hvp(v)
        else:
            hvplib.hvp(smooth if kind == "hvp" else with_mse, x, v)

    for _ in range(30):
        call()
    tensors, resident = live_tensors(), resident_bytes()
    for _ in range(calls):
        call()
    assert live_tensors() <= tensors
    assert resident_bytes() - resident <= 25 * 2**20


def test_a_dropped_local_model_frees_its_graph_without_the_collector() -> None:
    x = torch.linspace(-1, 1, 1000, dtype=F64)
    gc.collect()
    gc.disable()
    try:
        before = {id(thing) for thing in gc.get_objects() if type(thing) is Tensor}  # x, and of other tests
        model = hvplib.local_model(lambda x: (x.sin() * x).square().sum(), x)
        model.hvp(x)
        seen = torch.utils.weak.WeakTensorKeyDictionary()
        for thing in gc.get_objects():
            if type(thing) is Tensor and thing.numel() == 1000 and id(thing) not in before:
                seen[thing] = True
        assert len(seen) > 3
        assert model.nbytes > 0
        model.release()
        assert model.nbytes == 0
        del thing, model
        assert len(seen) == 0, f"{len(seen)} tensors stay alive"
    finally:
        gc.enable()


MEMORY_CAP = textwrap.dedent(
    """
    import resource
    import torch
    import hvplib

    torch.set_num_threads(1)
    x = torch.linspace(-1, 1, 400, dtype=torch.float64)
    A = torch.randn(4000, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 20

    def func(x):
        y = A @ x
        for _ in range(10):
            y = (y + 0.1).sin().exp()
        return y.sum()

    expected = hvplib.hessian(func, chunk_size=8)(x)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20, resource.RLIM_INFINITY))
    # 400 vectors at once take 400 x 4000 x 8 bytes = 12 MiB an intermediate, of which there are dozens
    for chunk_size in (400, "auto"):
        result = hvplib.hessian(func, chunk_size=chunk_size)(x)
        print("right" if torch.allclose(result, expected, rtol=1e-9, atol=1e-11) else "wrong")
    """
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_chunks_back_off_under_a_memory_cap() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_CAP], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["right", "right"]
