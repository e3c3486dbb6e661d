"""Memory: what is free, what is refused, how wide a chunk is, and how it shrinks when memory runs out."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

import pytest
import torch

from hvplib.ad import memory
from hvplib.ad.memory import chunk_width, free_bytes, is_out_of_memory, readable, require, with_backoff

CPU = torch.device("cpu")
KiB, MiB, GiB, TiB = 2**10, 2**20, 2**30, 2**40


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (MiB, "1.0 MiB"),
        (3 * GiB // 2, "1.5 GiB"),
        (7 * TiB, "7.0 TiB"),
        (5000 * TiB, "5000.0 TiB"),
    ],
)
def test_readable(nbytes: int, text: str) -> None:
    assert readable(nbytes) == text


def test_what_fits_is_let_through_and_what_does_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: GiB)
    require(GiB, CPU, "it", "do less")
    with pytest.raises(MemoryError, match=r"^it needs 1\.5 GiB, 1\.0 GiB are free on cpu; do less$"):
        require(3 * GiB // 2, CPU, "it", "do less")


def test_the_machine_has_some_memory_and_not_all_of_it() -> None:
    assert 0 < free_bytes(CPU) < 2**62


def test_the_address_space_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (used + 10 * MiB, resource.RLIM_INFINITY))
    assert abs(free_bytes(CPU) - 10 * MiB) <= 2 * MiB
    monkeypatch.setattr(resource, "getrlimit", lambda which: (used // 2, resource.RLIM_INFINITY))
    assert free_bytes(CPU) == 0


def test_an_unreadable_system_is_taken_to_have_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **kwargs: Any) -> Any:
        raise OSError

    monkeypatch.setattr("builtins.open", missing)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert free_bytes(CPU) == 2**62


@pytest.mark.parametrize(
    ("per_vector", "count", "width"),
    [(1, 7, 7), (0, 5, 5), (MiB, 1000, 8), (3 * MiB, 1000, 2), (GiB, 1000, 1)],
)
def test_chunks_fill_the_budget_and_no_more(
    monkeypatch: pytest.MonkeyPatch, per_vector: int, count: int, width: int
) -> None:
    monkeypatch.setitem(memory._CHUNK_BYTES, "cpu", 8 * MiB)
    assert chunk_width(per_vector, count, CPU) == width


def test_chunks_elsewhere_take_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 400 * MiB)
    assert chunk_width(MiB, 1000, torch.device("cuda")) == 100
    monkeypatch.setattr(memory, "free_bytes", lambda device: 400 * GiB)
    assert chunk_width(MiB, 10_000, torch.device("cuda")) == 1024


class Worker:
    """Fails above a width, as an allocator does, and notes what it did."""

    def __init__(self, limit: int, error: Exception) -> None:
        self.limit, self.error = limit, error
        self.done: list[int] = []
        self.tried: list[int] = []

    def __call__(self, start: int, stop: int) -> None:
        self.tried.append(stop - start)
        if stop - start > self.limit:
            raise self.error
        self.done += range(start, stop)


NO_MEMORY = [
    MemoryError("numpy"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
    torch.OutOfMemoryError("CUDA out of memory"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda e: type(e).__name__)
def test_back_off_halves_and_goes_on(error: Exception) -> None:
    work = Worker(3, error)
    with_backoff(work, 20, 16)
    assert work.done == list(range(20))
    assert work.tried == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]


def test_the_last_shorter_chunk_is_halved_itself() -> None:
    tried = []

    def run(start: int, stop: int) -> None:
        tried.append(stop - start)
        if start >= 16 and stop - start > 1:
            raise MemoryError

    with_backoff(run, 20, 16)
    assert tried == [16, 4, 2, 1, 1, 1, 1]


def test_no_failure_no_change() -> None:
    work = Worker(100, MemoryError())
    with_backoff(work, 10, 4)
    assert work.done == list(range(10)) and work.tried == [4, 4, 2]
    with_backoff(work, 0, 4)
    assert work.tried == [4, 4, 2]


def test_a_single_vector_that_does_not_fit_is_the_end() -> None:
    with pytest.raises(MemoryError, match="numpy"):
        with_backoff(Worker(0, NO_MEMORY[0]), 5, 4)


def test_other_errors_are_not_retried() -> None:
    work = Worker(1, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        with_backoff(work, 5, 4)
    assert work.tried == [4]


def test_what_counts_as_running_out() -> None:
    assert all(is_out_of_memory(error) for error in NO_MEMORY)
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_torch_says_what_is_expected_of_it() -> None:
    with pytest.raises(RuntimeError) as info:
        torch.empty(2**55)
    assert is_out_of_memory(info.value)


CAPPED = """
import resource, torch
torch.set_num_threads(1)
from hvplib import hessian
from hvplib.ad.engines import GraphEngine
x = torch.linspace(0.1, 1.0, 160, dtype=torch.float64)
f = lambda x: torch.outer(x, x).repeat(2, 2).sin().sum() / 4  # several times 0.8 MB a vector
hessian(f, chunk_size=1, rows=[0])(x)  # what torch loads once is there before the cap
widths = []
rows = GraphEngine.rows
def watched(self, leaf, vectors):
    widths.append(len(vectors))
    return rows(self, leaf, vectors)
GraphEngine.rows = watched
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20, resource.RLIM_INFINITY))
H = hessian(f, chunk_size=None)(x)
outer = torch.outer(x, x)
expected = 2 * (outer.cos() - outer * outer.sin())
expected -= torch.diag(2 * (outer.sin() @ (x * x)))
assert torch.allclose(H, expected, atol=1e-10), (H - expected).abs().max()
print(max(widths), min(widths))
"""


def test_finishes_under_a_cap_of_the_address_space() -> None:
    """Under `ulimit -v` all vectors at once do not fit; the chunk backs off and the Hessian is right."""
    run = subprocess.run(
        [sys.executable, "-c", CAPPED], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    widest, narrowest = map(int, run.stdout.split())
    assert widest == 160 and narrowest < 160
