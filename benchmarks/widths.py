"""How many vectors at once: `python -m benchmarks.widths`.

Many vectors at a fixed point in blocks of several widths, and as `HessianOperator @ X` cuts them, by the
bytes that a vector takes (`hvplib.ad.memory.chunk_width`). That is a model of the cost, not a timing: the
last bits of a product depend on how many are made at once, and a clock must not decide about bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import hvplib
from benchmarks.contenders import flat, gradient
from benchmarks.contest import Score, contest
from benchmarks.problems import PROBLEMS, Problem
from benchmarks.product import UNIT, cell
from benchmarks.tables import arguments, prepare, publish, table

COUNT = {"rosen": 256, "tiny": 256, "logreg": 128, "mlp3": 32}
WIDTHS = (1, 4, 16, 64, 256)
OPERATOR = "**hvplib.HessianOperator @ X**"


def in_blocks(problem: Problem, count: int, width: int) -> Callable[[], list[Tensor]]:
    """Return what multiplies `count` vectors, `width` at once."""
    product = hvplib.local_model(problem.func, problem.params, engine="record").hvp_block
    tangents = problem.tangents(width=count)
    blocks = [tuple(t[start : start + width] for t in tangents) for start in range(0, count, width)]
    return lambda: [torch.cat(parts) for parts in zip(*map(product, blocks), strict=True)]


def as_columns(problem: Problem, count: int) -> Callable[[], Tensor]:
    """Return what multiplies `count` columns by the operator."""
    operator = hvplib.HessianOperator(problem.func, problem.params, engine="record")
    columns = torch.stack([flat([t[j] for t in problem.tangents(width=count)]) for j in range(count)]).mT
    return lambda: operator @ columns


def _rows(parts: list[Tensor], count: int) -> Tensor:
    """Return stacked tensors as one vector each, in rows."""
    return torch.cat([part.reshape(count, -1) for part in parts], 1)


def compare(problem: Problem, *, quick: bool) -> dict[str, Score]:
    """Return one column of the table."""
    count = COUNT[problem.name]
    expected = _rows(in_blocks(problem, count, 1)(), count)

    def error(name: str, result: Any) -> float:
        if name == UNIT:
            return 0.0
        found = result.mT if name == OPERATOR else _rows(result, count)
        return float((found - expected).norm() / expected.norm())

    builders: dict[str, Callable[[], Callable[[], object]]] = {UNIT: lambda: gradient(problem)}
    for width in WIDTHS:
        if width <= count:
            builders[f"{width} at once"] = partial(in_blocks, problem, count, width)
    builders[OPERATOR] = lambda: as_columns(problem, count)
    return contest(builders, UNIT, error, budget=0.5 if quick else 6.0, at_least=2 if quick else 5)


def main() -> None:
    """Run the comparison and print it."""
    parser = arguments(__doc__)
    parser.add_argument("--problems", nargs="+", choices=COUNT, default=list(COUNT))
    options = parser.parse_args()
    prepare(options)
    scores = {name: compare(PROBLEMS[name](), quick=options.quick) for name in options.problems}
    names = (UNIT, *(f"{width} at once" for width in WIDTHS), OPERATOR)
    rows = {
        row: [cell(row, own[row], COUNT[name]) if row in own else "–" for name, own in scores.items()]
        for row in names
    }
    sections = {"Each vector of many": table("in gradients", list(scores), rows)}
    publish("widths", "How many vectors at once", sections, packages=("hvplib",), save=options.save)


if __name__ == "__main__":
    main()
