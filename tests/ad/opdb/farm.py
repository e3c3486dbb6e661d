"""One forked process per unit, so that a crash or a hang costs one unit."""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

from tests.ad.opdb.units import Unit
from tests.ad.opdb.verdicts import Verdict


def run(
    units: Sequence[Unit], judge: Callable[[Unit], Verdict], *, jobs: int = 2, timeout: float = 120.0
) -> Iterator[Verdict]:
    """Judges every unit in a child process, `jobs` at a time; yields verdicts as they come."""
    waiting = list(reversed(units))
    running: dict[int, tuple[int, Unit, float, bytearray]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                unit = waiting.pop()
                pipe, pid = _start(unit, judge)
                running[pipe] = (pid, unit, time.monotonic() + timeout, bytearray())
            ready, _, _ = select.select(list(running), [], [], 0.5)
            for pipe in ready:
                chunk = os.read(pipe, 1 << 16)
                running[pipe][3].extend(chunk)
                if not chunk:
                    yield _collect(pipe, *running.pop(pipe))
            for pipe, (pid, unit, deadline, _) in list(running.items()):
                if time.monotonic() > deadline:
                    del running[pipe]
                    _end(pipe, pid)
                    yield Verdict(unit.name, "died", f"no answer in {timeout:.0f} s")
    finally:
        for pipe, (pid, *_) in running.items():
            _end(pipe, pid)


def _start(unit: Unit, judge: Callable[[Unit], Verdict]) -> tuple[int, int]:
    receive, send = os.pipe()
    with warnings.catch_warnings():
        # Of threads that would be lost: the pools of torch hold no work between units.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        os.close(send)
        return receive, pid
    try:
        os.close(receive)
        try:
            verdict = judge(unit)
        except Exception as error:  # what the harness itself cannot do is told, never lost
            verdict = Verdict(unit.name, "unjudged", f"harness: {type(error).__name__}: {str(error)[:300]}")
        with os.fdopen(send, "wb") as stream:
            pickle.dump(verdict, stream)
    finally:
        os._exit(0)


def _collect(pipe: int, pid: int, unit: Unit, _deadline: float, received: bytearray) -> Verdict:
    os.close(pipe)
    _, status = os.waitpid(pid, 0)
    if received and status == 0:
        return pickle.loads(bytes(received))
    return Verdict(unit.name, "died", f"process ended with status {status}")


def _end(pipe: int, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(pipe)
