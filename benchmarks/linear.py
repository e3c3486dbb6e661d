"""Linear systems beside SciPy's solvers: `python -m benchmarks.linear`.

Both multiply by the same products and are asked for ‖b − A x‖ ≤ 1e-6 ‖b‖. SciPy's cg stops by the residual of
its recurrence and its minres relative to ‖A‖ ‖x‖: they get the loosest of tol = 1e-6, 1e-7, ... whose true
residual meets the target.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from benchmarks.eigenproblems import digits_operator, laplacian, network, start
from benchmarks.eigensolvers import Products
from benchmarks.problems import mlp3
from benchmarks.tables import arguments, figure, limited, prepare, publish, table
from benchmarks.timing import clock
from hvplib import CG, MINRES, MINRESQLP, Diagonal, FunctionOperator, Identity, Operator, solve

F64 = torch.float64
TOLERANCE = 1e-6


@dataclass(frozen=True)
class System:
    """A x = b, and whether A is positive definite."""

    operator: Operator
    b: Tensor
    positive: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a solver reached and spent."""

    products: int
    seconds: float
    outside: float
    residual: float


Solver = Callable[[System, Products, float], Tensor]


# -------------------------------------------------------------------------------------------------- systems


def diagonal(values: Tensor, *, positive: bool = True) -> System:
    """Return a system with these eigenvalues; its right-hand side contains all eigenvectors alike."""
    return System(Diagonal(values.to(F64)), start(len(values), 1), positive)


def damped(operator: Operator, damping: float) -> System:
    n = operator.shape[0]
    return System(operator + damping * Identity(n, dtype=F64), start(n, 1))


def two_sided(n: int) -> System:
    return diagonal(
        torch.cat([-torch.logspace(0, 1, n // 4), torch.logspace(0, 2, n - n // 4)]), positive=False
    )


SYSTEMS: dict[str, Callable[[], System]] = {
    "condition 10⁴, n=10⁴": lambda: diagonal(torch.logspace(0, 4, 10_000)),
    "condition 10⁴, n=10⁵": lambda: diagonal(torch.logspace(0, 4, 100_000)),
    "condition 10⁴, n=10⁶": lambda: diagonal(torch.logspace(0, 4, 1_000_000)),
    "Laplacian of 100 × 100": lambda: diagonal(laplacian(100, 100)),
    "indefinite, n=10⁴": lambda: two_sided(10_000),
    "indefinite, n=10⁵": lambda: two_sided(100_000),
    "indefinite, n=10⁶": lambda: two_sided(1_000_000),
    "Hessian of digits + 0.01": lambda: damped(digits_operator(), 0.01),
    "Hessian of digits + 0.001, indefinite": lambda: System(
        damped(digits_operator(), 0.001).operator, start(digits_operator().shape[0], 1), positive=False
    ),
    "Hessian of mlp3 + 0.1": lambda: damped(network(mlp3), 0.1),
}
QUICK = ("n=10⁴", "n=10⁵", "Laplacian", "digits + 0.01")


# -------------------------------------------------------------------------------------------------- solvers


def by_hvplib(method: type[CG] | type[MINRES] | type[MINRESQLP]) -> Solver:
    def solver(system: System, products: Products, tolerance: float) -> Tensor:
        A = FunctionOperator(products, system.operator.shape, dtype=F64, symmetric=True)
        return solve(A, system.b, method=method(rtol=tolerance), throw=False).x

    return solver


def by_scipy(name: str) -> Solver:
    def solver(system: System, products: Products, tolerance: float) -> Tensor:
        b = system.b.numpy()
        A = products.scipy(len(b))
        x, _ = getattr(scipy.sparse.linalg, name)(A, b, rtol=tolerance, maxiter=10 * len(b))
        return torch.from_numpy(np.asarray(x))

    return solver


POSITIVE: dict[str, tuple[Solver, bool]] = {
    "**hvplib CG**": (by_hvplib(CG), False),
    "SciPy cg": (by_scipy("cg"), True),
}
INDEFINITE: dict[str, tuple[Solver, bool]] = {
    "**hvplib MINRES**": (by_hvplib(MINRES), False),
    "**hvplib MINRES-QLP**": (by_hvplib(MINRESQLP), False),
    "SciPy minres": (by_scipy("minres"), True),
}


def outcome(solver: Solver, system: System, tolerance: float) -> Outcome:
    products = Products(system.operator._product)
    begun = clock()
    x = solver(system, products, tolerance)
    seconds = clock() - begun
    residual = float((system.b - system.operator @ x).norm() / system.b.norm())
    return Outcome(products.count, seconds, seconds - products.seconds, residual)


def tuned(solver: Solver, system: System) -> float:
    """Return the loosest tolerance, a power of ten, with which the true residual meets the target."""
    tolerance = TOLERANCE
    while outcome(solver, system, tolerance).residual > TOLERANCE and tolerance > 1e-14:
        tolerance /= 10
    return tolerance


def compare(system: System, rounds: int) -> dict[str, list[str]]:
    """Return the rows of one system: medians, and ratios to SciPy in the same round."""
    solvers = POSITIVE if system.positive else INDEFINITE
    unit = next(name for name in solvers if "SciPy" in name)
    tolerances = {
        name: tuned(solver, system) if own else TOLERANCE for name, (solver, own) in solvers.items()
    }
    taken: dict[str, list[Outcome]] = {name: [] for name in solvers}
    order = list(solvers)
    for _ in range(rounds):
        for name in order:
            taken[name].append(outcome(solvers[name][0], system, tolerances[name]))
        order.append(order.pop(0))
    rows = {}
    for name, outcomes in taken.items():
        seconds = statistics.median(o.seconds for o in outcomes)
        outside = statistics.median(o.outside for o in outcomes)
        pairs = list(zip(outcomes, taken[unit], strict=True))
        rows[name] = [
            str(outcomes[0].products),
            figure(outcomes[0].products / taken[unit][0].products),
            figure(seconds),
            f"{100 * statistics.median(o.outside / o.seconds for o in outcomes):.0f} %",
            figure(1e3 * outside / outcomes[0].products),
            figure(statistics.median(own.outside / of.outside for own, of in pairs)),
            f"{outcomes[0].residual:.0e}",
        ]
    return rows


COLUMNS = ("products", "ratio", "seconds", "outside", "ms a product", "ratio outside", "true residual")


def main() -> None:
    """Run the comparison and print it."""
    parser = arguments(__doc__)
    parser.add_argument("--systems", nargs="+", help="only those whose names contain one of these")
    options = parser.parse_args()
    prepare(options)
    parts = options.systems or (QUICK if options.quick else [""])
    names = [name for name in SYSTEMS if any(part in name for part in parts)]
    sections = {}
    with limited(options.threads):
        for name in names:
            rows = compare(SYSTEMS[name](), rounds=3 if options.quick else 7)
            sections[name] = table("", COLUMNS, rows)
    publish(
        "linear",
        "Linear systems to a true residual of 1e-6, beside SciPy",
        sections,
        packages=("hvplib", "scipy", "numpy"),
        save=options.save,
        dtype="float64",
    )


if __name__ == "__main__":
    main()
