"""What recycled directions save: `python -m benchmarks.recycling`.

Each method minimises each problem with nothing recycled and with some directions. Told are gradients +
products until the minimiser ends, its certificate included, and their sums; the ratio is that of the sums of
products. Not solved, as `benchmarks.optim` judges it, is marked by an exclamation mark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks.minimisers import MAX_ITER, solves
from benchmarks.problems import CLASSICAL, REAL, Minimisation
from benchmarks.tables import arguments, limited, publish, table
from hvplib.optim import ARC, LineSearchNewtonCG, TrustKrylov, TrustNCG, minimize

METHODS: dict[str, Callable[..., object]] = {
    "trust-krylov": TrustKrylov,
    "trust-ncg": TrustNCG,
    "arc": ARC,
    "newton-cg": LineSearchNewtonCG,
}
PROBLEMS = {**CLASSICAL, **{name: REAL[name] for name in ("logistic regression", "digits net")}}


@dataclass(frozen=True)
class Spent:
    """Gradients and products, and whether the problem was solved."""

    points: int
    products: int
    solved: bool

    def __str__(self) -> str:
        return f"{self.points} + {self.products}{'' if self.solved else '!'}"


def spent(problem: Minimisation, method: object, seconds: float) -> Spent:
    """Minimise, and judge the end by value and gradient."""
    options = {"gtol": 1e-6, "max_iter": MAX_ITER, "time_limit": seconds}
    result = minimize(problem.func, problem.x0, method=method, **options)  # type: ignore[arg-type]
    return Spent(result.nfev, result.nhev, solves(problem, result.fun, result.gradient_norm))


def compare(rows: Mapping[str, Sequence[Spent]], counts: Sequence[int]) -> str:
    """Return a row for each problem, their sums, and the ratios of products to those of the first column."""
    cells = {name: [str(each) for each in row] for name, row in rows.items()}
    columns = list(zip(*rows.values(), strict=True))
    sums = [Spent(sum(s.points for s in own), sum(s.products for s in own), True) for own in columns]
    cells["sum"] = [str(each) for each in sums]
    cells["solved"] = [f"{sum(s.solved for s in own)} of {len(own)}" for own in columns]
    cells["ratio"] = [f"{each.products / sums[0].products:.2f}" for each in sums]
    return table("", [f"recycle={count}" for count in counts], cells)


def main() -> None:
    """Run the comparison and print it."""
    parser = arguments(__doc__)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), help="names")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help=f"of {', '.join(METHODS)}")
    parser.add_argument("--counts", nargs="+", type=int, default=[0, 8, 20], help="directions (0 8 20)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seconds = 5 if options.quick else 600
    sections = {}
    with limited(options.threads):
        for name in options.methods:
            methods = [METHODS[name](recycle=count) for count in options.counts]
            rows = {
                each: [spent(PROBLEMS[each](), method, seconds) for method in methods]
                for each in options.problems
            }
            sections[name] = compare(rows, options.counts)
    packages = ("numpy", "scipy")
    publish(
        "recycling", "Recycled directions", sections, packages=packages, save=options.save, dtype="float64"
    )


if __name__ == "__main__":
    main()
