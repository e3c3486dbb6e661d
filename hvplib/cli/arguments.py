"""What may stand on the command line."""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch

__all__ = ["parser"]

_ABOUT = """\
Curvature of a problem in a Python file of yours, from the command line.

TARGET is FILE.py:NAME or package.module:NAME. NAME is a function without required arguments; it returns
  an hvplib operator,
  (func, params) or (func, params, data), or a dict of these,
  or a dict of model (a torch.nn.Module) and loss, and perhaps data and params (which parameters).
The matrix is the operator, or the Hessian of the function at params, of the model's loss at its parameters.
"""
_EXAMPLES = """\
examples:
  hvplib eigsh model.py:problem -k 3 --which BE --output top.json --output top.npz
  hvplib eigsh model.py:problem --checkpoint search.ckpt     # Ctrl-C, and the same command again goes on
  hvplib trace model.py:problem --rtol 0.02 --time-limit 600
  hvplib density model.py:problem --num-probes 4 --output density.png
  hvplib minimize fits.rosenbrock:problem --output minimum.json
  hvplib check model.py:problem

exit status:
  0    what was asked for was reached
  1    it was not: no convergence, a limit came first, a check failed or could not tell
  2    wrong usage: the command line, the file or the name; nothing was computed
  3    the library refused the problem, or the problem's own code failed
  130  Ctrl-C: the partial result was printed and written, if there was one
"""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    whole = argparse.ArgumentParser(
        prog="hvplib",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    eigsh = _command(commands, "eigsh", "eigenvalues and eigenvectors at the ends of the spectrum")
    eigsh.add_argument("-k", type=_positive, default=6, help="how many (default: 6)")
    eigsh.add_argument("--which", choices=("LM", "LA", "SA", "BE"), default="LM", help=_WHICH)
    eigsh.add_argument("--method", choices=("lanczos", "lobpcg", "arpack", "dense"))
    eigsh.add_argument("--krylov-dim", type=_positive, metavar="M", help="vectors kept by lanczos")
    eigsh.add_argument("--rtol", type=_real, help="tolerance on the residual, relative to the eigenvalue")
    eigsh.add_argument(
        "--checkpoint", metavar="FILE", help="kept up to date; the search is taken up from it if it is there"
    )
    _budget(eigsh)
    trace = _command(commands, "trace", "the trace, with its standard error and interval")
    trace.add_argument("--method", choices=("hutchinson", "hutch++", "xtrace", "xnystrace", "exact"))
    trace.add_argument("--rtol", type=_real, help="go on until half the interval is within this, relative")
    trace.add_argument("--atol", type=_real, help="the same, absolute")
    trace.add_argument("--confidence", type=_real, default=0.95, help="of the interval (default: 0.95)")
    _budget(trace)
    density = _command(commands, "density", "the spectral density, with bounds")
    density.add_argument("--method", choices=("slq", "dense"))
    density.add_argument("--num-probes", type=_positive, default=10, metavar="K", help="(default: 10)")
    density.add_argument("--krylov-dim", type=_positive, default=80, metavar="M", help="steps (default: 80)")
    density.add_argument("--scale", choices=("linear", "log"), default="linear")
    density.add_argument("--width", type=_real, help="standard deviation of the smoothing")
    _budget(density)
    check = _command(commands, "check", "whether the products are right, by all that can be compared")
    check.add_argument("--seed", type=_natural, default=0, help="of the directions (default: 0)")
    _command(commands, "hessian", "the dense matrix, within memory")
    minimum = _command(commands, "minimize", "a minimum of the function, from params")
    minimum.add_argument(
        "--method",
        default="auto",
        choices=("auto", "trust-krylov", "trust-ncg", "trust-exact", "arc", "newton-cg", "newton-mr"),
    )
    minimum.add_argument("--gtol", type=_real, help="tolerance on the gradient's largest entry")
    minimum.add_argument("--max-iter", type=_positive, default=2000, help="most steps (default: 2000)")
    _budget(minimum)
    return whole


_WHICH = "largest magnitude, largest, smallest, both ends (default: LM)"


def _command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=f"{_ABOUT}\n{name}: {about}.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", help="FILE.py:NAME or package.module:NAME")
    parser.add_argument("--device", type=_device, help="where params, model and data go (cpu, cuda, ...)")
    parser.add_argument("--dtype", type=_dtype, help="float32 or float64, for the same")
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="FILE",
        help="what to write, by suffix: .json (numbers), .npz or .safetensors (all, for hvplib.io.load), "
        ".png, .svg or .pdf (a picture); may be repeated",
    )
    parser.add_argument("--quiet", action="store_true", help="print no result, show no progress")
    return parser


def _budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-matvecs", type=_positive, metavar="N", help="most products")
    parser.add_argument("--time-limit", type=_real, metavar="SECONDS")
    parser.add_argument("--seed", type=_natural, default=0, help="of random vectors (default: 0)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text}")
    return number


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be an integer, at least 0, got {text}")
    return number


def _real(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"must be a number, at least 0, got {text}")
    return number


def _dtype(text: str) -> torch.dtype:
    if text not in ("float32", "float64"):
        raise argparse.ArgumentTypeError(f"must be float32 or float64, got {text}")
    return torch.float32 if text == "float32" else torch.float64


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be used: {str(error).splitlines()[0]}") from error
    return device
