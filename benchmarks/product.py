"""The cost of one Hessian-vector product, in gradients: `python -m benchmarks.product`.

Two tables over the seven problems: a product at a fixed point, set-up and verification excluded, and a
product with nothing kept. Each entry is the median over rounds of its time over that of one eager gradient in
the same round. An answer further than 1e-3 from a float64 product is marked (wrong).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks.contenders import FIXED_POINT, ONE_OFF, Builder, double_backward, flat, gradient
from benchmarks.contest import Score, contest
from benchmarks.problems import PROBLEMS, Problem, in_double
from benchmarks.tables import arguments, figure, publish, table

PEERS = ("hvplib", "curvlinops-for-pytorch", "hessian-eigenthings", "pyhessian", "jax")
UNIT = "one eager gradient"


def compare(problem: Problem, contenders: Mapping[str, Builder], *, quick: bool) -> dict[str, Score]:
    """Return one column of the table."""
    v = problem.tangents()
    right = flat(double_backward(in_double(problem))(tuple(t.double() for t in v)))

    def error(name: str, result: Any) -> float:
        return 0.0 if name == UNIT else float((flat(result).double() - right).norm() / right.norm())

    def builder(contender: Builder) -> Callable[[], Callable[[], object]]:
        return lambda: partial(contender(problem), v)

    builders = {UNIT: lambda: gradient(problem)} | {name: builder(c) for name, c in contenders.items()}
    return contest(builders, UNIT, error, budget=0.5 if quick else 6.0, at_least=2 if quick else 5)


def cell(name: str, score: Score) -> str:
    """Return the entry of one contender: a ratio, or the time of the unit."""
    if score.seconds is None or score.ratio is None:
        return score.remark
    if name == UNIT:
        return f"{figure(1e3 * score.seconds)} ms"
    return f"{figure(score.ratio)} {score.remark}".strip()


def main() -> None:
    """Run the comparison and print it."""
    parser = arguments(__doc__)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # the peers' own
    sections = {}
    for heading, contenders in {
        "Each further product at a fixed point": FIXED_POINT,
        "One product, nothing kept": ONE_OFF,
    }.items():
        columns = {
            name: compare(PROBLEMS[name](), contenders, quick=options.quick) for name in options.problems
        }
        rows = {row: [cell(row, column[row]) for column in columns.values()] for row in (UNIT, *contenders)}
        sections[heading] = table("in gradients", list(columns), rows)
    publish("product", "The cost of a Hessian-vector product", sections, packages=PEERS, save=options.save)


if __name__ == "__main__":
    main()
