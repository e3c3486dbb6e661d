"""One run of each contender of `curvature_peers`, and its peak: what a process of its own imports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import torch
from torch import Tensor

from benchmarks.density import CONTENDERS, STEPS, area
from benchmarks.eigenproblems import EigenProblem, digits_operator
from benchmarks.eigensolvers import (
    TOLERANCE,
    Products,
    Solver,
    arpack,
    eigenthings,
    hvplib_eigsh,
    power_iteration,
    pyhessian,
)
from benchmarks.equal_accuracy import Trial
from benchmarks.memory import peak_growth
from benchmarks.peers import OPERATORS
from benchmarks.timing import clock
from benchmarks.traces import TRACES

N, K = 1510, 5

operator = cache(lambda library: OPERATORS[library]())


def trace_trial(name: str, truth: float, budget: int, seed: int) -> Trial:
    library, estimator = TRACES[name]
    products = Products(operator(library))
    begun = clock()
    value, stated = estimator(products, N, budget, seed)
    seconds = clock() - begun
    told = None if stated is None else stated / truth
    return Trial(value / truth - 1, products.count, seconds, told)


def trace_peak(name: str, budget: int) -> int:
    return peak_growth(lambda: trace_trial(name, 1.0, budget, 0), lambda: trace_trial(name, 1.0, 12, 1))


# (whose operator, solvers from the least work to the most).
EIGENVALUES: dict[str, tuple[str, Sequence[Solver]]] = {
    "**hvplib.eigsh**": ("hvplib", [hvplib_eigsh]),
    "**hvplib.eigsh**, no search for missed members": (
        "hvplib",
        [partial(hvplib_eigsh, miss_probability=None)],
    ),
    "curvlinops, by SciPy's eigsh (ARPACK)": (
        "curvlinops",
        [partial(arpack, tolerance=tolerance) for tolerance in (1e-3, 1e-4, 1e-5, TOLERANCE)],
    ),
    "hessian-eigenthings Lanczos, steps doubled until converged": ("hessian-eigenthings", [eigenthings]),
    "hessian-eigenthings Lanczos, as many steps as it takes, known in advance": (
        "hessian-eigenthings",
        [partial(eigenthings, steps=steps, reorthogonalize=True) for steps in range(2 * K, 60)],
    ),
    "hessian-eigenthings power iteration": (
        "hessian-eigenthings",
        [partial(power_iteration, tolerance=tolerance) for tolerance in (1e-6, 3e-7, 1e-7, 3e-8)],
    ),
    "PyHessian (power iteration)": (
        "PyHessian",
        # It divides by the norm and 1e-6, so that no tolerance makes residuals much smaller than that.
        [partial(pyhessian, tolerance=tolerance, limit=1000) for tolerance in (1e-9, 1e-11, 1e-13)],
    ),
}


def top_peak(name: str, index: int) -> int:
    library, solvers = EIGENVALUES[name]
    # Judged by nothing: the dense matrix would have raised what is resident.
    problem = EigenProblem("digits", digits_operator(), torch.ones(K, dtype=torch.float64), "LA", 20)

    def solve() -> object:
        return solvers[index](problem, Products(operator(library)), 0)

    return peak_growth(solve, solve)


DENSITIES = {
    "**hvplib.spectral_density**": "hvplib",
    "**hvplib.spectral_density**, outliers=10": "hvplib",
    "curvlinops (Lanczos alone)": "curvlinops",
    "hessian-eigenthings": "hessian-eigenthings",
    "PyHessian, given the torch.eig that it needs": "PyHessian",
}


def density_trial(name: str, spectrum: Tensor, probes: int, seed: int) -> Trial:
    contender, _ = CONTENDERS[name]
    products = Products(operator(DENSITIES[name]))
    begun = clock()
    found = contender(products, N, seed, probes, STEPS)
    seconds = clock() - begun
    return Trial(area(found, spectrum), products.count, seconds)


def density_peak(name: str, probes: int) -> int:
    spectrum = torch.linspace(0, 1, N, dtype=torch.float64)
    return peak_growth(
        lambda: density_trial(name, spectrum, probes, 0), lambda: density_trial(name, spectrum, 1, 1)
    )
