"""The commands: from options and a problem to a result, in words, and whether it is what was asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from hvplib.ad.memory import free_bytes, readable
from hvplib.cli.problem import Problem, UsageError
from hvplib.optim.ending import Ending
from hvplib.results.status import Status

__all__ = ["COMMANDS", "Outcome", "Tick"]

Tick = Callable[[int], None]  # is told the products so far


@dataclass(frozen=True)
class Outcome:
    """What a command found.

    Attributes:
        result: For files.
        text: For the terminal.
        success: Whether it is what was asked for.
        interrupted: Whether Ctrl-C ended it.
    """

    result: Any
    text: str
    success: bool
    interrupted: bool = False

    @classmethod
    def of(cls, result: Any) -> Outcome:
        """Of a result with a status."""
        return cls(result, str(result), result.status.success, result.status is Status.INTERRUPTED)


def eigsh(problem: Problem, options: argparse.Namespace, tick: Tick) -> Outcome:
    """Eigenvalues at the ends of the spectrum."""
    from hvplib.eigen import Checkpoint, Lanczos, eigsh
    from hvplib.eigen.methods import method_of

    numbers = {"krylov_dim": options.krylov_dim, "max_matvecs": options.max_matvecs}
    numbers = {name: number for name, number in numbers.items() if number is not None}
    method: Any = options.method
    if numbers:
        method = Lanczos() if method is None else method_of(method)
        unknown = numbers.keys() - {field.name for field in fields(method)}
        if unknown:
            flags = ", ".join("--" + name.replace("_", "-") for name in sorted(unknown))
            raise UsageError(f"{flags} is not for --method {options.method}; leave it out, or use lanczos")
        method = replace(method, **numbers)
    result = eigsh(
        problem.operator(),
        options.k,
        which=options.which,
        method=method,
        rtol=options.rtol,
        generator=options.seed,
        time_limit=options.time_limit,
        checkpoint=None if options.checkpoint is None else Checkpoint(options.checkpoint),
        callback=lambda progress: tick(progress.num_matvecs),
        throw=False,
    )
    return Outcome.of(result)


def trace(problem: Problem, options: argparse.Namespace, tick: Tick) -> Outcome:
    """The trace."""
    from hvplib.estimate import trace

    operator = problem.operator()
    result = trace(
        operator,
        method=options.method,
        rtol=options.rtol,
        atol=options.atol,
        confidence=options.confidence,
        max_matvecs=options.max_matvecs,
        generator=options.seed,
        time_limit=options.time_limit,
        callback=lambda progress: tick(progress.num_matvecs),
        throw=False,
    )
    return Outcome.of(result)


def density(problem: Problem, options: argparse.Namespace, tick: Tick) -> Outcome:
    """The spectral density, drawn with characters."""
    from hvplib.estimate.density import spectral_density
    from hvplib.plots import text_density

    probes, steps = options.num_probes, options.krylov_dim
    if options.max_matvecs is not None:
        steps = min(steps, options.max_matvecs)
        probes = min(probes, options.max_matvecs // steps)
    result = spectral_density(
        problem.operator(),
        num_probes=probes,
        krylov_dim=steps,
        width="auto" if options.width is None else options.width,
        scale=options.scale,
        method=options.method,
        generator=options.seed,
        time_limit=options.time_limit,
        callback=lambda progress: tick(progress.num_matvecs),
        throw=False,
    )
    outcome = Outcome.of(result)
    return replace(outcome, text=f"{outcome.text}\n\n{text_density(result)}")


def check(problem: Problem, options: argparse.Namespace, tick: Tick) -> Outcome:
    """Whether products are right."""
    from hvplib.ad.check import check_hvp
    from hvplib.operators.check import check_operator

    reports = {"operator": check_operator(problem.operator(), seed=options.seed)}
    if problem.func is not None and problem.data is None:
        reports["function"] = check_hvp(problem.func, problem.params, seed=options.seed)
    text = "\n".join(f"{name}: {report}" for name, report in reports.items())
    told = {
        name: {"ok": report.ok, "checks": [str(check) for check in report.checks]}
        for name, report in reports.items()
    }
    return Outcome(told, text, all(report.ok for report in reports.values()))


def hessian(problem: Problem, options: argparse.Namespace, tick: Tick) -> Outcome:
    """The dense matrix, in the order of the flat vector."""
    operator = problem.operator()
    rows, columns = operator.shape
    needed = 3 * rows * columns * operator.torch_dtype.itemsize  # itself, its transpose, and what is written
    if needed > free_bytes(operator.device):
        raise MemoryError(
            f"the matrix is {rows} x {columns} and takes {readable(needed)} with its copies; "
            f"{readable(free_bytes(operator.device))} are free; ask for eigsh, trace or density, or choose "
            "fewer parameters"
        )
    matrix = operator.to_dense().cpu()
    lines = [f"{rows} x {columns} matrix, {operator.num_matvecs} products"]
    if rows == columns:
        scale = float(matrix.abs().max())
        defect = float((matrix - matrix.mT).abs().max()) / scale if scale else 0.0
        lines += [f"  trace      {float(matrix.double().diagonal().sum()):.9g}", f"  asymmetry  {defect:.1e}"]
    names = list(operator.domain.names) if operator.domain is not None else []
    sizes = list(operator.domain.sizes) if operator.domain is not None else []
    told = {"matrix": matrix, "names": names, "sizes": sizes}
    return Outcome(told, "\n".join(lines), bool(torch.isfinite(matrix).all()))


def minimize(problem: Problem, options: argparse.Namespace, tick: Tick) -> Outcome:
    """A minimum."""
    from hvplib.optim import minimize

    func, params, data = problem.function("minimize")
    unused = {"verify", "check_deterministic"}
    result = minimize(
        func,
        params,
        data,
        method=options.method,
        gtol=options.gtol,
        max_iter=options.max_iter,
        max_hvp=options.max_matvecs,
        time_limit=options.time_limit,
        generator=options.seed,
        callback=lambda told: tick(told.nhev),
        **{name: value for name, value in problem.options.items() if name not in unused},
    )
    lines = [
        result.message,
        f"  value      {result.fun:.9g}",
        f"  gradient   {result.gradient_norm:.3g}",
        f"  curvature  {result.certificate}, least eigenvalue {result.min_eigenvalue:.3g}",
        f"  spent      {result.nit} steps, {result.nfev} points, {result.nhev} products",
    ]
    return Outcome(result, "\n".join(lines), result.success, result.status is Ending.INTERRUPTED)


COMMANDS: dict[str, Callable[[Problem, argparse.Namespace, Tick], Outcome]] = {
    "eigsh": eigsh,
    "trace": trace,
    "density": density,
    "check": check,
    "hessian": hessian,
    "minimize": minimize,
}
