"""What `minimize` adds to the products that it makes: `python -m benchmarks.solver_overhead`.

The bare engine is `local_model(f, x, engine="record").hvp`, already recorded, at the points and with the vectors of
the minimisation; blocks (of `trust-exact`, and of the certificate of up to 64 unknowns) are held against its
`hvp_block`. A call is one vector or one block. Three ratios to the time of the bare engine:

* a product: a call as the solver makes it, accounts, limits and conversions included, beside the bare call for the
  same vector in turns; the median over the calls.
* inside products: all of them together, of a run by itself, with what recording takes.
* all but points: the whole of that run but the evaluations of value and gradient: steps, small problems, recycling,
  the certificate, and the verification before the first product.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from torch import Tensor

import hvplib
from benchmarks.minimisers import MAX_ITER
from benchmarks.problems import CLASSICAL, Minimisation
from benchmarks.tables import arguments, figure, limited, prepare, publish, table
from benchmarks.timing import clock
from hvplib.optim import minimize
from hvplib.optim.evaluation import Objective, Point
from hvplib.optim.methods import NAMES

# Points at which bare engines are made, spread over the run: making one takes as long as hundreds of products.
_POINTS = 12
_DENSE = 600
COLUMNS = ("n", "points", "calls", "bare, µs", "a product", "inside products", "all but points")


@dataclass
class Spent:
    """Seconds of one run, and how often points and products were asked for."""

    whole: float = 0.0
    evaluations: float = 0.0
    products: float = 0.0
    points: int = 0
    calls: int = 0


@dataclass
class Pairs:
    """Seconds of calls as the solver makes them, and of the bare engine's for the same vectors."""

    solver: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The median of the quotients."""
        return statistics.median(own / of for own, of in zip(self.solver, self.bare, strict=True))

    @property
    def unit(self) -> float:
        """Seconds of a bare call, the mean over the calls."""
        return statistics.fmean(self.bare)


def minimised(problem: Minimisation, method: str) -> Any:
    return minimize(problem.func, problem.x0, method=method, max_iter=MAX_ITER, gtol=1e-6)


def timed(call: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Seconds, and what the call returned."""
    start = clock()
    result = call(*given)
    return clock() - start, result


def spent(problem: Minimisation, method: str) -> Spent:
    """Let the solver run, with a watch on what it asks of the function."""
    found = Spent()
    at, hvp = Objective.at, Point.hvp

    def watched_at(objective: Objective, x: Tensor) -> Point:
        seconds, point = timed(at, objective, x)
        found.evaluations, found.points = found.evaluations + seconds, found.points + 1
        return point

    def watched_hvp(point: Point, V: Tensor) -> Tensor:
        seconds, product = timed(hvp, point, V)
        found.products, found.calls = found.products + seconds, found.calls + 1
        return product

    with patch.object(Objective, "at", watched_at), patch.object(Point, "hvp", watched_hvp):
        found.whole, _ = timed(minimised, problem, method)
    return found


class Beside:
    """In place of `Point.hvp`: the solver's call, and at some of its points the bare engine's beside it.

    Args:
        problem: What is minimised.
        every: At one of how many points.
    """

    def __init__(self, problem: Minimisation, every: int) -> None:
        self.pairs = Pairs()
        self._problem, self._every = problem, every
        self._points = 0
        self._point: Point | None = None
        self._bare: Callable[[Tensor], object] | None = None

    def __call__(self, call: Callable[[Point, Tensor], Tensor], point: Point, V: Tensor) -> Tensor:
        if point is not self._point:
            self._point, self._points = point, self._points + 1
            self._bare = None if self._points % self._every else self._engine(point, V)
        if self._bare is None:
            return call(point, V)
        bare_first = len(self.pairs.bare) % 2
        if bare_first:
            self.pairs.bare.append(timed(self._bare, V)[0])
        seconds, product = timed(call, point, V)
        self.pairs.solver.append(seconds)
        if not bare_first:
            self.pairs.bare.append(timed(self._bare, V)[0])
        return product

    def _engine(self, point: Point, V: Tensor) -> Callable[[Tensor], object]:
        """The bare engine at this point, recorded."""
        model = hvplib.local_model(self._problem.func, point.x, engine="record", verify=False)

        def bare(V: Tensor) -> object:
            return model.hvp(V[:, 0]) if V.shape[1] == 1 else model.hvp_block(V.mT)

        bare(V)
        return bare


def paired(problem: Minimisation, method: str, points: int) -> Pairs:
    """The same run, with the bare engine beside the solver's calls."""
    beside, hvp = Beside(problem, max(1, points // _POINTS)), Point.hvp
    with patch.object(Point, "hvp", lambda point, V: beside(hvp, point, V)):
        minimised(problem, method)
    return beside.pairs


def row(problem: Minimisation, method: str, rounds: int) -> list[float]:
    """Return the numbers of one problem: medians over rounds."""
    spent(problem, method)  # pays for what is imported late
    numbers = []
    for _ in range(rounds):
        run = spent(problem, method)
        pairs = paired(problem, method, run.points)
        bare = pairs.unit * run.calls
        rest = run.whole - run.evaluations
        numbers.append(
            (run.points, run.calls, 1e6 * pairs.unit, pairs.ratio, run.products / bare, rest / bare)
        )
    return [problem.size, *(statistics.median(column) for column in zip(*numbers, strict=True))]


def compare(problems: Sequence[str], method: str, rounds: int) -> str:
    """Return the table of one method, with the medians over the problems."""
    rows = {}
    for name in problems:
        problem = CLASSICAL[name]()
        if method == "trust-exact" and problem.size > _DENSE:
            continue
        rows[name] = row(problem, method, rounds)
        print(method, name, *map(figure, rows[name]), file=sys.stderr)
    cells = {
        name: [f"{n:.0f}" for n in numbers[:3]] + list(map(figure, numbers[3:]))
        for name, numbers in rows.items()
    }
    medians = [statistics.median(column) for column in zip(*rows.values(), strict=True)][4:]
    cells["median"] = ["", "", "", "", *map(figure, medians)]
    return table("", COLUMNS, cells)


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--problems", nargs="+", choices=CLASSICAL, default=list(CLASSICAL))
    parser.add_argument(
        "--methods", nargs="+", choices=("auto", *NAMES), default=["auto", "trust-ncg", "newton-cg"]
    )
    options = parser.parse_args()
    prepare(options)
    with limited(options.threads):
        sections = {m: compare(options.problems, m, 1 if options.quick else 3) for m in options.methods}
    publish(
        "solver-overhead",
        "What a minimiser adds to its products",
        sections,
        packages=("scipy",),
        save=options.save,
        dtype="float64",
    )


if __name__ == "__main__":
    main()
