"""How much memory there is, and what to do so that a computation stays within it."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["chunk_width", "free_bytes", "is_out_of_memory", "readable", "require", "with_backoff"]

# A chunk of vectors whose tensors stay near the size of the cache runs fastest: smaller chunks pay for Python
# too often, larger ones wait for memory. Measured on networks of 1000 to 5000 parameters.
_CHUNK_BYTES = {"cpu": 8 * 2**20}
_CHUNK_BYTES_ELSEWHERE = 2**30
_SHARE = 0.25  # of the free memory of an accelerator, for one chunk
_WORTH_A_LOOK = 64 * 2**20


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`: what the system has free, and the process may take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    return min(_available(), _address_space())


def require(nbytes: int, device: torch.device, what: str, remedy: str) -> None:
    """Raise MemoryError with numbers if `nbytes` do not fit on `device`."""
    if nbytes > _WORTH_A_LOOK and nbytes > (free := free_bytes(device)):
        raise MemoryError(f"{what} needs {readable(nbytes)}, {readable(free)} are free on {device}; {remedy}")


def chunk_width(per_vector: int, count: int, device: torch.device) -> int:
    """How many of `count` vectors to push at once, if each needs about `per_vector` bytes."""
    budget = _CHUNK_BYTES.get(device.type, _CHUNK_BYTES_ELSEWHERE)
    if budget > _WORTH_A_LOOK:
        budget = min(budget, int(_SHARE * free_bytes(device)))
    return max(1, min(count, budget // max(per_vector, 1)))


def with_backoff(run: Callable[[int, int], None], count: int, width: int) -> None:
    """Call `run(start, stop)` over 0 ... count in steps of `width`, halving it when memory runs out."""
    start = 0
    while start < count:
        stop = min(start + width, count)
        try:
            run(start, stop)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or width == 1:
                raise
            width = max(1, (stop - start) // 2)
            continue
        start = stop


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; on the CPU torch says so by a RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def readable(nbytes: int) -> str:
    """Bytes in binary units: 1536 -> '1.5 KiB'."""
    size = float(nbytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _available() -> int:
    """What the kernel says can be allocated without swapping, within the limit of the control group."""
    try:
        with open("/proc/meminfo") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 2**62
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as current:
            return min(free, int(limit.read()) - int(current.read()))
    except (OSError, ValueError):
        return free


def _address_space() -> int:
    """What `ulimit -v` leaves to this process."""
    try:
        import resource  # Unix only
    except ImportError:
        return 2**62
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return 2**62
    try:
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        used = 0
    return max(0, limit - used)
