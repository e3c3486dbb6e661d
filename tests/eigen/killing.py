"""Processes that are killed with SIGKILL while they write: run as a program, which imports torch only once.

Each victim is a fork of it. What the file then holds is looked at by the survivor.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["fork", "kill_myself", "program"]


def program(module: str, *arguments: object, timeout: float = 120.0) -> str:
    """What `python -m module arguments` prints; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fork(work: Callable[[], object]) -> int:
    """The process id of a child that does the work and no more."""
    if child := os.fork():
        return child
    try:
        work()
        os._exit(0)
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)


def killed(child: int) -> bool:
    """Whether the child ended by SIGKILL, when it has ended."""
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def kill_myself(function: Callable[..., object], call: int) -> Callable[..., object]:
    """The function, but at its call of this number (from 0) the process is killed instead."""
    left = [call]

    def deadly(*arguments: object, **options: object) -> object:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return function(*arguments, **options)

    return deadly


# A state whose parts must belong together.


def state_of(step: int) -> dict[str, object]:
    """All of it says `step`."""
    return {"step": step, "rows": torch.full((64, 1000), float(step)), "more": {"T": [torch.tensor([step])]}}


def step_of(state: dict[str, object]) -> int:
    """The step that all of it says."""
    step = state["step"]
    assert isinstance(step, int)
    expected = state_of(step)
    assert torch.equal(state["rows"], expected["rows"])  # type: ignore[arg-type]
    assert state["more"] == expected["more"]
    return step


def at_random(folder: Path, count: int) -> None:
    """Kill a process that saves again and again, `count` times; print how often it was inside a write."""
    from hvplib.eigen.checkpoint import load_checkpoint, save_checkpoint

    path, done = folder / "state", folder / "done"
    rng = random.Random(0)

    def save_for_ever(first: int) -> None:
        for step in range(first, sys.maxsize):
            save_checkpoint(path, state_of(step))
            done.write_text(f"{step} ")

    save_checkpoint(path, state_of(0))
    last, inside = 0, 0
    for _ in range(count):
        done.write_text("0 ")
        child = fork(lambda first=last + 1: save_for_ever(first))
        while done.read_text() in ("", "0 "):  # on a busy machine a child may take long to begin
            time.sleep(0.001)
        time.sleep(0.03 * rng.random())
        os.kill(child, signal.SIGKILL)
        assert killed(child)
        inside += (folder / "state.partial").exists()
        state = load_checkpoint(path)
        assert state is not None
        found, promised = step_of(state), done.read_text()
        assert found >= (int(promised) if promised.endswith(" ") else last), "a saved state was lost"
        assert found >= last
        last = found
    sys.stdout.write(f"{inside} {last}\n")


def at_each_call(folder: Path) -> None:
    """Kill a process at each call by which a save touches the disk; print the number of kills for each."""
    from hvplib.eigen import checkpoint

    path = folder / "state"
    for place, name in ((checkpoint._Hashing, "write"), (os, "fsync"), (os, "replace"), (os, "open")):
        calls = 0
        while True:
            checkpoint.save_checkpoint(path, state_of(1))

            def victim(place: object = place, name: str = name, call: int = calls) -> None:
                setattr(place, name, kill_myself(getattr(place, name), call))
                checkpoint.save_checkpoint(path, state_of(2))

            died = killed(fork(victim))
            state = checkpoint.load_checkpoint(path)
            assert state is not None
            # The new file has its name before the folder is made durable, and not before all else is.
            late = (name, calls) in (("fsync", 1), ("open", 0))
            assert step_of(state) == (2 if late or not died else 1), (name, calls)
            if not died:
                break
            calls += 1
        sys.stdout.write(f"{name} {calls}\n")


if __name__ == "__main__":
    if sys.argv[1] == "at_random":
        at_random(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        at_each_call(Path(sys.argv[2]))
