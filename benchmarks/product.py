"""The cost of one Hessian-vector product, in gradients: `python -m benchmarks.product`.

Three tables over the seven problems: a product at a fixed point, set-up and verification excluded, a vector
of a block of them, and a product with nothing kept. Each entry is the median over rounds of its time over
that of one eager gradient in the same round. An answer further than 1e-3 from a float64 product is marked
(wrong).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from benchmarks.contenders import BLOCKS, FIXED_POINT, ONE_OFF, Builder, double_backward, flat, gradient
from benchmarks.contest import Score, contest
from benchmarks.problems import PROBLEMS, Problem, in_double
from benchmarks.tables import arguments, figure, prepare, publish, table

PEERS = ("hvplib", "curvlinops-for-pytorch", "hessian-eigenthings", "pyhessian", "jax")
UNIT = "one eager gradient"
WIDTH = 64
SMALL = ("rosen", "tiny", "logreg")
PARTS: dict[str, tuple[str, Mapping[str, Builder], int | None]] = {
    "fixed": ("Each further product at a fixed point", FIXED_POINT, None),
    "block": (f"Each vector of a block of {WIDTH} at a fixed point", BLOCKS, WIDTH),
    "once": ("One product, nothing kept", ONE_OFF, None),
}


def compare(
    problem: Problem, contenders: Mapping[str, Builder], *, quick: bool, width: int | None = None
) -> dict[str, Score]:
    """Return one column of the table; with `width`, of products with so many vectors at once."""
    v = problem.tangents() if width is None else problem.tangents(width=width)
    one = v if width is None else tuple(t[0] for t in v)
    right = flat(double_backward(in_double(problem))(tuple(t.double() for t in one)))

    def error(name: str, result: Any) -> float:
        if name == UNIT:
            return 0.0
        found = flat(result if width is None else [t[0] for t in result])
        return float((found.double() - right).norm() / right.norm())

    def builder(contender: Builder) -> Callable[[], Callable[[], object]]:
        return lambda: partial(contender(problem), v)

    builders = {UNIT: lambda: gradient(problem)} | {name: builder(c) for name, c in contenders.items()}
    return contest(builders, UNIT, error, budget=0.5 if quick else 6.0, at_least=2 if quick else 5)


def cell(name: str, score: Score, width: int = 1) -> str:
    """Return the entry of one contender: a ratio, of a block that of one vector, or the time of the unit."""
    if score.seconds is None or score.ratio is None:
        return score.remark
    if name == UNIT:
        return f"{figure(1e3 * score.seconds)} ms"
    return f"{figure(score.ratio / width)} {score.remark}".strip()


def main() -> None:
    """Run the comparison and print it."""
    parser = arguments(__doc__)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument(
        "--skip", nargs="+", default=[], metavar="WORD", help="contenders with these in their names"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="tables to print")
    options = parser.parse_args()
    prepare(options)
    sections = {}
    for part in options.parts:
        heading, contenders, width = PARTS[part]
        left = {n: c for n, c in contenders.items() if not any(word in n for word in options.skip)}
        # A block on the large problems takes a minute, and shows what a loop would.
        names = [n for n in options.problems if width is None or n in SMALL or not options.quick]
        columns = {name: compare(PROBLEMS[name](), left, quick=options.quick, width=width) for name in names}
        rows = {
            row: [cell(row, column[row], width or 1) for column in columns.values()] for row in (UNIT, *left)
        }
        sections[heading] = table("in gradients", list(columns), rows)
    publish("product", "The cost of a Hessian-vector product", sections, packages=PEERS, save=options.save)


if __name__ == "__main__":
    main()
