"""The peak memory of one computation, as the operating system saw it (`tracemalloc` does not see tensors)."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence

__all__ = ["measured_in_child", "peak_growth", "peak_rss"]


def peak_rss() -> int:
    """Return the most bytes this process ever had resident."""
    try:
        # Not ru_maxrss where this exists: a child inherits that figure from the process that started it.
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def peak_growth(run: Callable[[], object], warm_up: Callable[[], object]) -> int:
    """Return by how many bytes `run` raises the peak, in a process that has done nothing big before.

    `warm_up` is the same computation on a small problem: it loads what the code loads on first use, which is
    not what is to be measured.
    """
    warm_up()
    gc.collect()
    before = peak_rss()
    result = run()  # held, so that it counts
    after = peak_rss()
    del result
    return after - before


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
