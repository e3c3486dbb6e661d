"""Trace and top of a network's Hessian, by four libraries: `python -m benchmarks.curvature_peers`.

The digits network of `digits_eigen` (64-20-10, n = 1510, all 1797 digits, float64). For traces each library
multiplies with its own operator; eigensolvers and densities all multiply with hvplib's. Traces are asked for
at equal accuracy: every method gets products in powers of two until the root mean square of its error over
the seeds is within the target, judged by the dense matrix; what it states of the error is told beside. So are
densities, with random vectors in powers of two. Peaks are those of processes of their own.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.density import AREA, AREA_COLUMNS, CONTENDERS, STEPS, to_an_area
from benchmarks.digits_eigen import row as eigen_row
from benchmarks.eigenproblems import (
    EigenProblem,
    digits_hessian,
    digits_network,
    digits_operator,
    digits_spectrum,
)
from benchmarks.eigensolvers import (
    arpack,
    eigenthings,
    hvplib_eigsh,
    in_float64,
    power_iteration,
    pyhessian,
    run,
)
from benchmarks.memory import measured_in_child, peak_growth
from benchmarks.tables import arguments, figure, limited, publish, table
from benchmarks.timing import take_cpu_time

TARGET = 0.02
LIMIT = 2048

# (products, seed) -> estimate, and what the library states of its error: None if nothing.
Estimator = Callable[[int, int], tuple[float, float | None]]


def hvplib(method: str) -> Estimator:
    from hvplib import trace

    A = digits_operator()

    def estimate(products: int, seed: int) -> tuple[float, float | None]:
        result = trace(A, method=method, max_matvecs=products, generator=seed)
        return result.value, result.stderr

    return estimate


def curvlinops(name: str) -> Estimator:
    import curvlinops as package

    model, batch = digits_network()
    A = package.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), [batch], check_deterministic=False
    )
    estimator = getattr(package, name)

    def estimate(products: int, seed: int) -> tuple[float, float | None]:
        torch.manual_seed(seed)  # it draws from the global generator
        # Hutch++ divides its products by three.
        products -= products % 3 if name == "hutchpp_trace" else 0
        return float(estimator(A, products)), None

    return estimate


def eigenthings_trace(method: str) -> Estimator:
    from hessian_eigenthings.algorithms import trace
    from hessian_eigenthings.operators import HessianOperator

    model, batch = digits_network()
    A = HessianOperator(
        model, [batch], lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])
    )

    def estimate(products: int, seed: int) -> tuple[float, float | None]:
        result = trace(A, num_matvecs=products, method=method, seed=seed)
        return float(result.estimate), float(result.stderr)

    return estimate


def pyhessian_trace() -> Estimator:
    from pyhessian import hessian

    model, batch = digits_network()
    with in_float64():
        A = hessian(model, nn.CrossEntropyLoss(), data=batch, cuda=False)

    def estimate(products: int, seed: int) -> tuple[float, float | None]:
        torch.manual_seed(seed)  # it draws from the global generator
        samples = A.trace(maxIter=products, tol=0.0)
        return sum(samples) / len(samples), None

    return estimate


TRACES: dict[str, Callable[[], Estimator]] = {
    "**hvplib** Hutchinson": lambda: hvplib("hutchinson"),
    "**hvplib** Hutch++": lambda: hvplib("hutch++"),
    "**hvplib** XTrace, its default here": lambda: hvplib("xtrace"),
    "PyHessian (Hutchinson)": pyhessian_trace,
    "curvlinops Hutchinson": lambda: curvlinops("hutchinson_trace"),
    "curvlinops Hutch++": lambda: curvlinops("hutchpp_trace"),
    "curvlinops XTrace": lambda: curvlinops("xtrace"),
    "hessian-eigenthings Hutchinson": lambda: eigenthings_trace("hutchinson"),
    "hessian-eigenthings Hutch++": lambda: eigenthings_trace("hutch++"),
}


@dataclass(frozen=True)
class Found:
    """The products that the target takes, the error then, what is stated of it, and CPU seconds for one."""

    products: int
    error: float
    stated: float | None
    seconds: float


def fewest(estimator: Estimator, truth: float, seeds: int) -> Found | None:
    """The first power of two within the target."""
    products = 16
    while products <= LIMIT:
        estimator(products, 0)
        begun = time.process_time()
        found = [estimator(products, seed) for seed in range(seeds)]
        seconds = (time.process_time() - begun) / seeds
        error = (sum((value / truth - 1) ** 2 for value, _ in found) / seeds) ** 0.5
        if error <= TARGET:
            stated = [one for _, one in found if one is not None]
            told = (sum((one / truth) ** 2 for one in stated) / seeds) ** 0.5 if stated else None
            return Found(products, error, told, seconds)
        products *= 2
    return None


def trace_row(name: str, truth: float, seeds: int) -> list[str]:
    try:
        found = fewest(TRACES[name](), truth, seeds)
    except ModuleNotFoundError as reason:
        return [f"not installed ({reason.name})", "", "", "", ""]
    except Exception as reason:  # a peer may fail in any way, and the table says so
        return [f"fails ({type(reason).__name__}: {reason})"[:120], "", "", "", ""]
    if found is None:
        return [f"> {LIMIT}", "", "", "", ""]
    index = str(list(TRACES).index(name))
    memory = measured_in_child(
        "benchmarks.curvature_peers", ["--memory", index, str(found.products)], timeout=600
    )
    told = "nothing" if found.stated is None else f"{100 * found.stated:.1f} %"
    peak = memory if isinstance(memory, str) else f"{memory / 2**20:.0f}"
    return [str(found.products), f"{100 * found.error:.1f} %", told, figure(found.seconds), peak]


def memory_of(index: int, products: int) -> int:
    """Bytes by which one trace raises the peak, its operator made before."""
    estimator = list(TRACES.values())[index]()
    return peak_growth(lambda: estimator(products, 0), lambda: estimator(6, 1))


EIGENVALUES = {
    "**hvplib.eigsh**": hvplib_eigsh,
    "SciPy eigsh (ARPACK)": arpack,
    "hessian-eigenthings Lanczos, steps doubled until converged": eigenthings,
    "hessian-eigenthings power iteration": power_iteration,
    "PyHessian": pyhessian,
}


def top_row(name: str, problem: EigenProblem) -> list[str]:
    answer = run(EIGENVALUES[name], problem)
    memory = measured_in_child(
        "benchmarks.curvature_peers", ["--top-memory", str(list(EIGENVALUES).index(name))], timeout=600
    )
    peak = memory if isinstance(memory, str) else f"{memory / 2**20:.0f}"
    return [*eigen_row(problem, answer), peak]


def top_memory(index: int) -> int:
    """Bytes by which one solver raises the peak, the operator made before and its code loaded."""
    # Not `digits_hessian`, whose dense matrix would have raised the peak before.
    problem = EigenProblem("digits", digits_operator(), torch.ones(5, dtype=torch.float64), "LA", 20)
    solver = list(EIGENVALUES.values())[index]
    return peak_growth(
        lambda: run(solver, problem), lambda: problem.operator._product(torch.ones(problem.n, 1).double())
    )


def main() -> None:
    """Run the comparison and print it."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, help="of traces (default: 30, 3 with --quick)")
    parser.add_argument("--memory", nargs=2, type=int, help="for the script itself")
    parser.add_argument("--top-memory", type=int, help="for the script itself")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # the peers' own
    if options.memory:
        print(memory_of(*options.memory))
        sys.exit()
    if options.top_memory is not None:
        print(top_memory(options.top_memory))
        sys.exit()
    seeds = options.seeds or (3 if options.quick else 30)
    truth = float(digits_spectrum().sum())
    with limited(options.threads):
        traces = {name: trace_row(name, truth, seeds) for name in TRACES}
        problem = digits_hessian(5, "LA", 20)
        top = {name: top_row(name, problem) for name in EIGENVALUES}
        take_cpu_time()
        spectrum = digits_spectrum()
        densities = {name: to_an_area(name, spectrum, AREA, min(seeds, 11)) for name in CONTENDERS}
    columns = ("products", "true error", "stated error", "CPU seconds", "peak MiB")
    eigen_columns = ("products", "of which", "largest true residual", "reached 1e-6", "found", "seconds")
    eigen_columns += ("peak MiB",)
    publish(
        "curvature-peers",
        "Trace, top five eigenvalues and spectral density of the Hessian of a network on digits",
        {
            f"Trace, to {100 * TARGET:.0f} % in the root mean square of {seeds} seeds": table(
                "", columns, traces
            ),
            "Top five eigenvalues, to a relative true residual of 1e-6": table("", eigen_columns, top),
            f"Spectral density, {STEPS} steps from each random vector, to an area of {AREA:g} between the "
            f"distributions in the root mean square of {min(seeds, 11)} seeds": table(
                "", AREA_COLUMNS, densities
            ),
        },
        packages=("curvlinops-for-pytorch", "hessian-eigenthings", "pyhessian", "scipy"),
        save=options.save,
        dtype="float64",
    )


if __name__ == "__main__":
    main()
