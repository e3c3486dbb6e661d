"""Four threads at once, and Ctrl-C at random moments: no stray exception, no wrong number."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import hvplib
from tests.ad.awkward.case import F64, directions

ROOT = Path(__file__).resolve().parents[2]


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run `work(i)` in `count` threads at once and raise the first exception of any."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def body(i: int) -> None:
        try:
            barrier.wait()
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_four_threads_on_a_pure_function() -> None:
    A = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=F64)

    def func(x: Tensor) -> Tensor:
        return (A @ x).sin().square().sum() + (x**4).sum()

    xs = [torch.full((6,), 0.1 * (i + 1), dtype=F64) for i in range(4)]
    v = torch.linspace(-1, 1, 6, dtype=F64)
    expected = [A.T @ (2 * torch.cos(2 * A @ x) * (A @ v)) + 12 * x**2 * v for x in xs]

    def work(i: int) -> None:
        for _ in range(150):
            torch.testing.assert_close(hvplib.hvp(func, xs[i], v), expected[i], rtol=1e-10, atol=1e-10)

    in_threads(4, work)


def test_four_threads_with_one_module() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.randn(6, 4, dtype=F64)

    def func(params: dict[str, Tensor]) -> Tensor:
        return functional_call(net, params, x).square().sum()

    points = [{k: p.detach() * (1 + 0.2 * i) for k, p in net.named_parameters()} for i in range(4)]
    v = directions(points[0])
    expected = [hvplib.hvp(func, p, v) for p in points]
    own = {k: p.detach().clone() for k, p in net.named_parameters()}

    def work(i: int) -> None:
        for turn in range(40):
            if turn % 4 == 3:
                product = hvplib.local_model(func, points[i], verify=turn % 8 == 3).hvp(v)
            else:
                product = hvplib.hvp(func, points[i], v)
            for k, t in product.items():
                torch.testing.assert_close(t, expected[i][k], rtol=1e-9, atol=1e-11)

    in_threads(4, work)
    assert all(torch.equal(p, own[k]) for k, p in net.named_parameters())


INTERRUPTS = """
import random, signal, sys, time
import torch
from torch import nn
from torch.func import functional_call
import hvplib

hits, seed = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 2)).double()
x = torch.randn(6, 4, dtype=torch.float64)
params = {k: p.detach() for k, p in net.named_parameters()}
v = {k: torch.ones_like(p) for k, p in params.items()}

def func(p):
    return nn.functional.mse_loss(functional_call(net, p, x), torch.zeros(6, 2, dtype=torch.float64))

def kept():
    return hvplib.local_model(func, params).hvp(v)

def once():
    return hvplib.hvp(func, params, v)

def by_forward():
    return hvplib.hvp(lambda p: func(p) + sum((q ** 4).sum() for q in p.values()), params, v, strategy="auto")

state, buffers = torch.get_rng_state(), {k: b.clone() for k, b in net.named_buffers()}
uses = [once, once, kept, by_forward]
expected = {use: use() for use in uses}
spans = {}
for use in set(uses):
    start = time.perf_counter()
    for _ in range(5):
        use()
    spans[use] = (time.perf_counter() - start) / 5
rng = random.Random(seed)
interrupted = broken = tries = 0
faults = []
while interrupted < hits and tries < 4 * hits:
    tries += 1
    use = rng.choice(uses)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1.05 * spans[use]))
            use()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    except Exception as error:
        faults.append(f"the interrupt came out as {error!r:.200}")
        interrupted += 1
    try:
        after = use()
        if not all(torch.equal(after[k], expected[use][k]) for k in after):
            faults.append("wrong number after an interrupt")
        if not torch.equal(torch.get_rng_state(), state):
            faults.append("generator moved")
        if not all(torch.equal(b, buffers[k]) for k, b in net.named_buffers()):
            faults.append("buffers moved")
    except KeyboardInterrupt:
        continue  # the timer ran out on the way here
    except Exception as error:
        faults.append(f"next call broken: {error!r:.200}")
print(interrupted, tries, len(faults), *faults[:5], sep="\\n")
"""


# Every product is recorded at its first call.
RECORDED = "from hvplib.ad.trace import replay\nreplay._CALLS = replay._PER_OPERATION = 0\n"


def interrupt(hits: int, seed: int, before: str = "") -> tuple[int, list[str]]:
    """Strike a process with SIGINT at random moments; how often it was hit, and what went wrong."""
    # The timer sends SIGALRM; its handler raises SIGINT in the process, as Ctrl-C does: asynchronously.
    prelude = (
        "import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", prelude + before + INTERRUPTS, str(hits), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    interrupted, _tries, count, *faults = done.stdout.splitlines()
    return int(interrupted), [f"{count} faults", *faults] if int(count) else []


@pytest.mark.parametrize("before", ["", pytest.param(RECORDED, id="recorded")])
def test_interrupts_never_break_the_next_call(before: str) -> None:
    interrupted, faults = interrupt(60, seed=1, before=before)
    assert interrupted >= 60
    assert not faults, faults


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", pytest.param(RECORDED, id="recorded")])
def test_a_thousand_interrupts_never_break_the_next_call(before: str) -> None:
    interrupted, faults = interrupt(1000, seed=2, before=before)
    assert interrupted >= 1000
    assert not faults, faults
