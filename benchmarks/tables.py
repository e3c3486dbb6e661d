"""Markdown tables of figures, with the machine and the date they were taken on."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch

from benchmarks.timing import is_cpu_time, take_cpu_time

__all__ = ["arguments", "figure", "limited", "prepare", "publish", "table"]

_RESULTS = pathlib.Path(__file__).parent / "results"


def figure(value: float) -> str:
    """Return three significant digits at most: a fourth would be noise."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value < 1 else f"{value:.2f}"


def table(corner: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Return a Markdown table with named rows and columns."""
    lines = [f"| {corner} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    return "\n".join(lines)


def _versions(*packages: str) -> str:
    """Return the versions of the named distributions, as far as they are installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that every script has."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute, noisier")
    parser.add_argument("--save", action="store_true", help="write the tables to benchmarks/results/")
    parser.add_argument("--threads", type=int, default=1, help="threads for torch (default: 1)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="of this process: for a machine that is shared"
    )
    return parser


def prepare(options: argparse.Namespace) -> None:
    """Set threads and clock as the options say, and silence the peers' warnings.

    The process is held to as many cores as it has threads: XLA takes all that it sees, whatever its flags,
    and hands small programs from one to another, which takes longer than they do. Which cores these are,
    `taskset` may say.
    """
    torch.set_num_threads(options.threads)
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    warnings.simplefilter("ignore")
    if options.cpu_time:
        take_cpu_time()


@contextlib.contextmanager
def limited(threads: int) -> Iterator[None]:
    """Hold NumPy's and SciPy's linear algebra to as many threads as torch has."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    with threadpool_limits(threads):
        yield


def publish(
    claim: str,
    title: str,
    sections: Mapping[str, str],
    *,
    packages: Sequence[str],
    save: bool,
    dtype: str = "float32",
) -> None:
    """Print the tables under their headings, and write them to a dated file if asked to."""
    clock = " Times are of the processor, of this process." if is_cpu_time() else ""
    parts = [f"# {title}", "", f"{_machine()}, {dtype}. {_versions('torch', *packages)}.{clock}", ""]
    for heading, text in sections.items():
        parts += [f"## {heading}", "", text, ""]
    document = "\n".join(parts).rstrip() + "\n"
    print(document)
    if save:
        _RESULTS.mkdir(exist_ok=True)
        path = _RESULTS / f"{datetime.date.today().isoformat()}-{claim}-cpu.md"
        path.write_text(document)
        print(f"written to benchmarks/results/{path.name}")


def _machine() -> str:
    threads = torch.get_num_threads()
    return (
        f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, "
        f"{threads} thread{'s' * (threads > 1)} used, Python {platform.python_version()}"
    )
