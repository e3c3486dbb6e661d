"""`main`: read the command line, run the command, print and write what it found, and say how it ended."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hvplib.cli.arguments import parser
from hvplib.cli.commands import COMMANDS, Outcome, Tick
from hvplib.cli.output import check_outputs, versions, write
from hvplib.cli.problem import Problem, UsageError, load_problem
from hvplib.eigen.checkpoint import CheckpointError
from hvplib.errors import DerivativeError
from hvplib.plots import draw_convergence, draw_density, draw_estimate, draw_minimization
from hvplib.results.status import ConvergenceError

__all__ = ["main"]

REACHED, NOT_REACHED, USAGE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 130

# Where code of the libraries lies.
_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))

DRAWN: dict[str, Callable[[Any, Any], Any]] = {
    "eigsh": draw_convergence,
    "density": draw_density,
    "trace": draw_estimate,
    "minimize": draw_minimization,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; those of the process if None.

    Returns:
        The exit status: 0 reached, 1 not reached, 2 wrong usage, 3 refused or failed, 130 interrupted.
    """
    try:
        options = parser().parse_args(argv)
    except SystemExit as ended:  # argparse has said what is wrong, or has shown the help
        return int(ended.code or 0)
    try:
        return _run(options)
    except UsageError as error:
        return _failed(error, USAGE)
    except KeyboardInterrupt:
        _say("interrupted before there was a result to keep")
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    check_outputs(options.command, options.output, DRAWN)
    try:
        problem = load_problem(options.target, options.device, options.dtype)
    except UsageError:
        raise
    except Exception as error:
        traceback.print_exc()
        return _failed(f"{options.target} failed: {type(error).__name__}", USAGE)
    try:
        outcome = _computed(problem, options)
    except UsageError:
        raise
    except ConvergenceError as error:  # nothing is known yet
        return _failed(error, INTERRUPTED if error.status.name == "INTERRUPTED" else NOT_REACHED)
    except CheckpointError as error:
        return _failed(error, USAGE)
    except Exception as error:
        if _of_the_users(error):
            traceback.print_exc()
        wrong = isinstance(error, TypeError | ValueError) and not _of_the_users(error)
        return _failed(error, USAGE if wrong else REFUSED)
    return _told(outcome, options)


def _computed(problem: Problem, options: argparse.Namespace) -> Outcome:
    with _bar(options) as tick:
        return COMMANDS[options.command](problem, options, tick)


def _told(outcome: Outcome, options: argparse.Namespace) -> int:
    """Print and write; the exit status."""
    status = INTERRUPTED if outcome.interrupted else REACHED if outcome.success else NOT_REACHED
    if not options.quiet:
        sys.stdout.write(outcome.text + "\n")
        sys.stdout.flush()
    told = {
        "command": options.command,
        "target": options.target,
        "exit_status": status,
        "versions": versions(),
    }
    try:
        for path in options.output:
            write(path, outcome.result, told, DRAWN.get(options.command))
    except OSError as error:
        return _failed(error, USAGE)
    if outcome.interrupted:
        _say("interrupted: the result is partial" + _where(options))
    return status


def _where(options: argparse.Namespace) -> str:
    files = f"; it is in {', '.join(options.output)}" if options.output else ""
    resumed = getattr(options, "checkpoint", None)
    return files + (f"; the same command goes on from {resumed}" if resumed else "")


@contextmanager
def _bar(options: argparse.Namespace) -> Iterator[Tick]:
    """A count of the products on standard error, where that is a terminal and tqdm is installed."""
    if options.quiet or not sys.stderr.isatty():
        yield lambda products: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda products: None
        return
    with tqdm(
        desc=options.command, unit=" products", total=getattr(options, "max_matvecs", None), leave=False
    ) as bar:

        def tick(products: int) -> None:
            bar.update(products - bar.n)

        yield tick


def _of_the_users(error: BaseException) -> bool:
    """Whether it was raised in code of the target: then where it was raised is what helps."""
    frames = traceback.extract_tb(error.__traceback__)
    return not isinstance(error, DerivativeError) and not frames[-1].filename.startswith(_LIBRARIES)


def _failed(error: object, status: int) -> int:
    _say(f"error: {error}")
    return status


def _say(text: str) -> None:
    sys.stderr.write(f"hvplib: {text}\n")
