"""The peak memory of one computation, as the operating system saw it (`tracemalloc` does not see tensors)."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["measured_apart", "measured_in_child", "peak_growth", "peak_rss"]


def peak_rss() -> int:
    """Return the most bytes this process ever had resident, or since `_forget_the_peak`."""
    try:
        # Not ru_maxrss where this exists: a child inherits that figure from the process that started it.
        return _status("VmHWM")
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _status(name: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name + ":"))


def _forget_the_peak() -> None:
    """Where Linux allows it, give what is free back and let the peak be what is resident now."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")


def peak_growth(run: Callable[[], object], warm_up: Callable[[], object]) -> int:
    """Return how many bytes more than before are resident at the peak of `run`.

    `warm_up` is the same computation, perhaps on a small problem: it loads what the code loads on first use,
    which is not what is to be measured.
    """
    warm_up()
    _forget_the_peak()
    before = peak_rss()
    result = run()  # held, so that it counts
    after = peak_rss()
    del result
    return after - before


def measured_apart(measure: Callable[..., int], *arguments: Any, timeout: float = 600) -> int | str:
    """Return `measure(*arguments)` of a process of its own, or what became of it.

    The process is forked from one that has imported `measure`'s module and done nothing else. It writes to
    standard output and error in vain.
    """
    context = multiprocessing.get_context("forkserver")
    module = sys.modules[measure.__module__]
    context.set_forkserver_preload([module.__spec__.name if module.__spec__ else module.__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, measure, arguments))
    process.start()
    sender.close()
    try:
        if receiver.poll(timeout):
            return receiver.recv()  # type: ignore[no-any-return]
        process.kill()
        return f"over {timeout:.0f} s"
    except EOFError:
        process.join()
        return f"died (status {process.exitcode})"
    finally:
        process.join()
        receiver.close()


def _send(sender: Connection, measure: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            found: int | str = measure(*arguments)
        except Exception as reason:  # a peer may fail in any way, and the table says so
            found = f"fails ({type(reason).__name__}: {reason})"[:120]
    sender.send(found)


def measured_in_child(
    module: str, arguments: Sequence[str], *, timeout: float = 120, returning: bool = False
) -> int | str:
    """Run `python -m module arguments`, which prints one number of bytes; the way it died if it did.

    `returning` makes glibc's allocator return what is freed from 1 MiB on, and not only from 32 MiB on: else
    it depends on fragments whether arrays of some 20 MiB that are gone still count.
    """
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    environment = os.environ | ({"MALLOC_MMAP_THRESHOLD_": str(2**20)} if returning else {})
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"over {timeout:.0f} s"
    if done.returncode:
        return f"died (status {done.returncode})"
    return int(done.stdout.split()[-1])
