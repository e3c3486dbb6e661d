"""Trace, top and density of a network's Hessian, by four libraries: `python -m benchmarks.curvature_peers`.

The digits network of `digits_eigen` (64-20-10, n = 1510, all 1797 digits, float64). Each library multiplies
with its own operator, made before, and its products are counted. All are asked for the same accuracy, judged
by the dense matrix: of the sizes tried the table has the first that gives it, and else the last, with what it
gave. Peaks are those of processes of their own.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.curvature_trials import (
    DENSITIES,
    EIGENVALUES,
    TRACES,
    K,
    N,
    density_peak,
    density_trial,
    operator,
    top_peak,
    trace_peak,
    trace_trial,
)
from benchmarks.density import STEPS
from benchmarks.digits_eigen import row as eigen_row
from benchmarks.eigenproblems import EigenProblem, digits_operator, digits_spectrum
from benchmarks.eigensolvers import TOLERANCE, Answer, run
from benchmarks.equal_accuracy import Reached, fewest
from benchmarks.memory import measured_apart
from benchmarks.peers import OPERATORS
from benchmarks.tables import arguments, figure, limited, prepare, publish, table
from benchmarks.timing import clock, take_cpu_time
from hvplib import Matrix

TRACE_ERROR, AREA = 0.02, 6e-4
# Hutch++ wants multiples of three, XTrace of two.
BUDGETS = tuple(6 * i for i in (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 40, 48, 56, 64, 91, 128, 181))
PROBES = (1, 2, 3, 4, 6, 8, 11, 16)
EIGEN_LIMIT = 5000
EIGEN_COLUMNS = ("products", "of which", "largest true residual", "reached 1e-6", "found", "CPU seconds")
EIGEN_COLUMNS += ("peak MiB",)

# ------------------------------------------------------------------------------------------------- products


def product_row(library: str, H: Tensor) -> list[str]:
    """The error of its product, and what it takes, alone and in a block."""
    X = torch.randn(N, 16, generator=torch.Generator().manual_seed(0), dtype=H.dtype)
    product = operator(library)
    error = float((product(X) - H @ X).norm() / (H @ X).norm())
    alone = _milliseconds(lambda: product(X[:, :1]))
    return [f"{error:.0e}", figure(alone), figure(_milliseconds(lambda: product(X)) / X.shape[1])]


def _milliseconds(call: Callable[[], object]) -> float:
    rounds = []
    for _ in range(20):
        begun = clock()
        call()
        rounds.append(1e3 * (clock() - begun))
    return statistics.median(rounds)


# --------------------------------------------------------------------------------------------------- traces


def trace_row(name: str, truth: float, seeds: int) -> list[str]:
    trace_trial(name, truth, BUDGETS[0], 0)
    found = fewest(partial(trace_trial, name, truth), BUDGETS, TRACE_ERROR, seeds)
    told = "nothing" if found.stated is None else f"{100 * found.stated:.1f} %"
    peak = mebibytes(measured_apart(trace_peak, name, found.size))
    return [spent(found), f"{100 * found.error:.1f} %", told, figure(found.seconds), peak]


def spent(found: Reached) -> str:
    return f"{found.products}" if found.enough else f"{found.products}, not enough"


def mebibytes(peak: int | str) -> str:
    return peak if isinstance(peak, str) else f"{peak / 2**20:.1f}"


# ---------------------------------------------------------------------------------------------- eigenvalues


def accurate(answer: Answer) -> bool:
    return not isinstance(answer.products, str) and answer.residual <= 1.01 * TOLERANCE


def least_work(name: str, problem: EigenProblem, seeds: int) -> tuple[int, Answer]:
    """Which solver is the first that is accurate for all seeds, or the last one, and its typical answer."""
    library, solvers = EIGENVALUES[name]
    for index, solver in enumerate(solvers):
        last = index == len(solvers) - 1
        answers: list[Answer] = []
        while len(answers) < seeds and (last or all(map(accurate, answers))):
            answers.append(run(solver, problem, len(answers), limit=EIGEN_LIMIT, product=operator(library)))
        if last or all(map(accurate, answers)):
            break
    return index, _typical(answers)


def _typical(answers: Sequence[Answer]) -> Answer:
    """The one with the median of products, with the worst of what was reached and the median of seconds."""
    for answer in answers:
        if isinstance(answer.products, str):  # there is none
            return answer
    middle = sorted(answers, key=lambda answer: int(answer.products))[len(answers) // 2]
    return replace(
        middle,
        residual=max(answer.residual for answer in answers),
        found=min(answer.found for answer in answers),
        seconds=statistics.median(answer.seconds for answer in answers),
    )


def top_row(name: str, problem: EigenProblem, seeds: int) -> list[str]:
    library, solvers = EIGENVALUES[name]
    run(solvers[0], problem, product=operator(library))
    index, answer = least_work(name, problem, seeds)
    return [*eigen_row(problem, answer), mebibytes(measured_apart(top_peak, name, index))]


# ------------------------------------------------------------------------------------------------ densities


def density_row(name: str, spectrum: Tensor, seeds: int) -> list[str]:
    density_trial(name, spectrum, 1, 0)
    found = fewest(partial(density_trial, name, spectrum), PROBES, AREA, seeds)
    peak = mebibytes(measured_apart(density_peak, name, found.size))
    return [spent(found), str(found.size), f"{found.error:.1e}", figure(found.seconds), peak]


# ---------------------------------------------------------------------------------------------------- table


def rows(row: Callable[..., list[str]], names: Iterable[str], *rest: object) -> dict[str, list[str]]:
    """A row for each name; a peer may be absent or fail in any way, and the table says so."""
    found = {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            found[name] = row(name, *rest)
        except ModuleNotFoundError as reason:
            found[name] = [f"not installed ({reason.name})"]
        except Exception as reason:
            found[name] = [f"fails ({type(reason).__name__}: {reason})".splitlines()[0][:120]]
    return found


PARTS = ("products", "traces", "top", "densities")


def section(part: str, quick: bool, seeds: int) -> tuple[str, str]:
    """Heading and table of one part; `seeds` are those of traces."""
    H, spectrum = digits_operator().to_dense(), digits_spectrum()
    if part == "products":
        columns = ("error", "CPU milliseconds", "of a block of 16, a vector")
        return "A product, by the operator of each", table("", columns, rows(product_row, OPERATORS, H))
    if part == "traces":
        heading = f"Trace, to {100 * TRACE_ERROR:.0f} % in the root mean square of {seeds} seeds, "
        heading += f"with at most {BUDGETS[-1]} products"
        columns = ("products", "true error", "stated error", "CPU seconds", "peak MiB")
        return heading, table("", columns, rows(trace_row, TRACES, float(spectrum.sum()), seeds))
    if part == "top":
        seeds = 1 if quick else 5
        heading = f"Top five eigenvalues, to a relative true residual of 1e-6 for each of {seeds} seeds"
        problem = EigenProblem("digits", Matrix(H, symmetric=True), spectrum[-K:], "LA", 20)
        return heading, table("", EIGEN_COLUMNS, rows(top_row, EIGENVALUES, problem, seeds))
    seeds = 3 if quick else 12
    heading = f"Spectral density, {STEPS} steps from each random vector, to an area of {AREA:g} between the "
    heading += f"distributions in the root mean square of {seeds} seeds"
    columns = ("products", "random vectors", "area", "CPU seconds", "peak MiB")
    return heading, table("", columns, rows(density_row, DENSITIES, spectrum, seeds))


def main() -> None:
    """Run the comparison and print it."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, help="of traces (default: 60, 8 with --quick)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="some of the tables only")
    options = parser.parse_args()
    prepare(options)
    take_cpu_time()
    seeds = options.seeds or (8 if options.quick else 60)
    with limited(options.threads):
        sections = dict(section(part, options.quick, seeds) for part in options.parts)
    publish(
        "curvature-peers",
        "Trace, top five eigenvalues and spectral density of the Hessian of a network on digits",
        sections,
        packages=("curvlinops-for-pytorch", "hessian-eigenthings", "pyhessian", "scipy"),
        save=options.save,
        dtype="float64",
    )


if __name__ == "__main__":
    main()
