"""The error of a trace against the products spent, by every method: `python -m benchmarks.trace`.

Dense matrices of known spectra, n = 500, float64; over many seeds, the root mean square of the error relative
to the trace, the error that the estimate itself states, and how often its 95 % interval holds the truth. At
last, diagonals.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.tables import arguments, publish, table
from hvplib import Matrix, diagonal, trace

F64 = torch.float64
N = 500
BUDGETS = (15, 30, 60, 120, 240)
METHODS = ("hutchinson", "hutch++", "xtrace", "xnystrace")
SPECTRA: dict[str, Callable[[Tensor], Tensor]] = {
    "flat, from 3 to 1": lambda i: 3 - 2 * (i - 1) / (N - 1),
    "power law, 1 / i": lambda i: 1 / i,
    "power law, 1 / i²": lambda i: i**-2,
    "exponential, 0.9^i": lambda i: 0.9**i,
    "step, 50 of 1 and 450 of 0.001": lambda i: torch.where(i <= 50, 1.0, 1e-3),
}


def matrix(spectrum: Callable[[Tensor], Tensor]) -> Matrix:
    U = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(0), dtype=F64)).Q
    A = U * spectrum(torch.arange(1, N + 1, dtype=F64)) @ U.mT
    return Matrix((A + A.mT) / 2, symmetric=True, positive_semidefinite=True)


def errors(A: Matrix, method: str, budget: int, seeds: int) -> str:
    truth = float(A.matrix.diagonal().sum())
    found = [trace(A, method=method, max_matvecs=budget, generator=seed) for seed in range(seeds)]
    squares = sum((result.value / truth - 1) ** 2 for result in found)
    stated = sum((result.stderr / truth) ** 2 for result in found)
    held = sum(low <= truth <= high for low, high in (result.interval for result in found))
    return f"{(squares / seeds) ** 0.5:.0e} ({(stated / seeds) ** 0.5:.0e}, {100 * held / seeds:.0f} %)"


def diagonals(A: Matrix, method: str, budget: int, seeds: int) -> str:
    truth = A.matrix.diagonal()
    found = [diagonal(A, method=method, max_matvecs=budget, generator=seed) for seed in range(seeds)]
    squares = sum(float((result.value - truth).norm() / truth.norm()) ** 2 for result in found)
    stated = sum(float(result.stderr.norm() / truth.norm()) ** 2 for result in found)
    return f"{(squares / seeds) ** 0.5:.0e} ({(stated / seeds) ** 0.5:.0e})"


def seconds(A: Matrix, method: str) -> str:
    begun = time.process_time()
    for seed in range(10):
        trace(A, method=method, max_matvecs=120, generator=seed)
    return f"{1e3 * (time.process_time() - begun) / 10:.1f}"


def main() -> None:
    """Run the comparison and print it."""
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    seeds = 10 if options.quick else 100
    sections = {}
    columns = [f"{budget} products" for budget in BUDGETS]
    matrices = {name: matrix(spectrum) for name, spectrum in SPECTRA.items()}
    for name, A in matrices.items():
        rows = {method: [errors(A, method, budget, seeds) for budget in BUDGETS] for method in METHODS}
        sections[f"Trace, {name}: error (stated, held)"] = table("method", columns, rows)
    for name in ("power law, 1 / i²", "exponential, 0.9^i"):
        rows = {
            method: [diagonals(matrices[name], method, budget, seeds // 5) for budget in BUDGETS]
            for method in ("hutchinson", "xdiag")
        }
        sections[f"Diagonal, {name}: error of the norm (stated)"] = table("method", columns, rows)
    times = {method: [seconds(matrices["power law, 1 / i"], method)] for method in METHODS}
    sections["CPU time of one trace with 120 products"] = table("method", ["milliseconds"], times)
    publish(
        "trace",
        f"Traces and diagonals of matrices of known spectrum, n = {N}, over {seeds} seeds",
        sections,
        packages=("numpy", "scipy"),
        save=options.save,
        dtype="float64",
    )


if __name__ == "__main__":
    main()
