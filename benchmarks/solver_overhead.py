"""What `minimize` adds to the products that it makes: `python -m benchmarks.solver_overhead`.

A call is a product with one vector, or with one block (of `trust-exact` and the certificate, from 5 up to 64
unknowns). All columns but the first four are ratios:

* own engine: a call as the solver makes it, accounts, limits and conversions included, to a call of the
  `LocalModel` that it ends in, in turns and with the same vector, each a second time; the median over calls.
* recorded: the same, to a new `local_model(f, x, engine="record")` there, recorded before. The first
  points of a run are multiplied by graphs, which this does not forgive.
* inside products: all of them together, of a run by itself, to as many calls of the latter: recording counts.
* all but points: the whole of that run but the evaluations of value and gradient: steps, small problems,
  recycling, the certificate, and the verification before the first product.
* whole: the run.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

from torch import Tensor

import hvplib
from benchmarks.minimisers import MAX_ITER
from benchmarks.problems import CLASSICAL, Minimisation
from benchmarks.tables import arguments, figure, limited, prepare, publish, table
from benchmarks.timing import clock
from hvplib.ad.local_model import LocalModel
from hvplib.optim import minimize
from hvplib.optim.evaluation import Objective, Point
from hvplib.optim.methods import NAMES

# Points at which engines are recorded, spread over the run: each takes as long as hundreds of products.
_POINTS = 12
# Unknowns up to which the dense method is run.
_DENSE = 600
COLUMNS = ("n", "points", "calls", "recorded, µs", "a call, to its own engine's", "to a recorded one's")
COLUMNS += ("inside products", "all but points", "whole")


@dataclass
class Spent:
    """Seconds of one run, and how often points and products were asked for."""

    whole: float = 0.0
    evaluations: float = 0.0
    products: float = 0.0
    points: int = 0
    calls: int = 0


@dataclass
class Calls:
    """Seconds of calls for the same vectors: the solver's, of its own engine, of a recorded one."""

    solver: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    recorded: list[float] = field(default_factory=list)

    def ratio(self, to: list[float]) -> float:
        """The median of the quotients."""
        return statistics.median(a / b for a, b in zip(self.solver, to, strict=True))


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
    """In place of `Point.hvp`: the solver's call, and at some of its points those of bare engines beside it.

    Args:
        problem: What is minimised.
        every: At one of how many points.
    """

    def __init__(self, problem: Minimisation, every: int) -> None:
        self.calls = Calls()
        self._problem, self._every = problem, every
        self._points = 0
        self._point: Point | None = None
        self._bare: list[Callable[[Tensor], object]] = []

    def __call__(self, call: Callable[[Point, Tensor], Tensor], point: Point, V: Tensor) -> Tensor:
        if point is not self._point:
            self._point, self._points = point, self._points + 1
            self._bare = [] if self._points % self._every else self._engines(point, V)
        if not self._bare:
            return call(point, V)
        product = None

        def solver(V: Tensor) -> None:
            nonlocal product
            product = call(point, V)

        turns = list(zip((solver, *self._bare), vars(self.calls).values(), strict=True))
        first = len(self.calls.solver) % len(turns)
        for contender, seconds in turns[first:] + turns[:first]:
            contender(V)  # all in their own caches: two of them read the same memory
            seconds.append(timed(contender, V)[0])
        assert product is not None
        return product

    def _engines(self, point: Point, V: Tensor) -> list[Callable[[Tensor], object]]:
        """The point's own engine, and one that is recorded; both have multiplied before."""
        recorded = hvplib.local_model(self._problem.func, point.x, engine="record", verify=False)
        engines = [partial(multiplied, model) for model in (point.operator._sum.only, recorded)]
        for engine in engines:
            engine(V)
        return engines


def multiplied(model: LocalModel, V: Tensor) -> object:
    """The products of a model with one vector or several (n, k)."""
    return model.hvp(V[:, 0]) if V.shape[1] == 1 else model.hvp_block(V.mT)


def beside(problem: Minimisation, method: str, points: int) -> Calls:
    """The same run, with the bare engines beside the solver's calls."""
    watch, hvp = Beside(problem, max(1, points // _POINTS)), Point.hvp
    with patch.object(Point, "hvp", lambda point, V: watch(hvp, point, V)):
        minimised(problem, method)
    return watch.calls


def row(problem: Minimisation, method: str, rounds: int) -> list[float]:
    """Return the numbers of one problem: medians over rounds."""
    spent(problem, method)  # pays for what is imported late
    numbers = []
    for _ in range(rounds):
        run = spent(problem, method)
        calls = beside(problem, method, run.points)
        unit = statistics.fmean(calls.recorded)
        sums = (run.products, run.whole - run.evaluations, run.whole)
        ratios = (calls.ratio(calls.own), calls.ratio(calls.recorded))
        numbers.append((run.points, run.calls, 1e6 * unit, *ratios, *(s / unit / run.calls for s in sums)))
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
        name: [f"{n:.0f}" for n in numbers[:4]] + list(map(figure, numbers[4:]))
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
