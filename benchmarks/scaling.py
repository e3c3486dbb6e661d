"""How the cost of a product grows: `python -m benchmarks.scaling`.

In eager gradients of the same function and data, set-up excluded: against the number of unknowns, against the
number of vectors multiplied at once (per vector), and against the number of mini-batches that the same data
are cut into. `--plot FILE` draws the three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import hvplib
from benchmarks.batches import gradient as batch_gradient
from benchmarks.batches import hvplib_operator
from benchmarks.contenders import gradient, retained_graph
from benchmarks.drawing import pyplot, save
from benchmarks.problems import Problem, mlp_problem, tiny
from benchmarks.tables import arguments, figure, prepare, publish, table
from benchmarks.timing import interleaved, ratios

UNIT = "one eager gradient"
WIDTHS = (8, 32, 128, 512)
VECTORS = (1, 4, 16, 64, 256)
BATCHES = (1, 4, 16, 64)
EXAMPLES = 4096
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

Calls = Mapping[str, Callable[[], object]]
Curves = dict[str, dict[int, float]]


def measured(calls: Calls, budget: float) -> dict[str, float]:
    """Return each contender's time over the unit's."""
    for call in calls.values():
        call()
    return ratios(interleaved(calls, budget=budget, at_least=3), UNIT)


def against_unknowns(budget: float) -> Curves:
    """Three-layer perceptrons on 64 examples."""
    curves: Curves = {"recorded": {}, "graph": {}}
    for width in WIDTHS:
        problem = mlp_problem(f"width {width}", (width, width, width, 1), 64, classes=False)
        v = problem.tangents()
        recorded = hvplib.local_model(problem.func, problem.params, engine="record")
        calls = {
            UNIT: gradient(problem),
            "recorded": partial(recorded.hvp, v),
            "graph": partial(retained_graph(problem), v),
        }
        found = measured(calls, budget)
        for name, curve in curves.items():
            curve[problem.size] = found[name]
    return curves


def against_vectors(budget: float) -> Curves:
    """The small network, k vectors at once; per vector."""
    problem, curves = tiny(), Curves()
    for count in VECTORS:
        V = problem.tangents(width=count)
        for engine in ("record", "graph"):
            model = hvplib.local_model(problem.func, problem.params, engine=engine)
            found = measured({UNIT: gradient(problem), engine: partial(model.hvp_block, V)}, budget)
            name = {"record": "recorded", "graph": "graph"}[engine]
            curves.setdefault(name, {})[count] = found[engine] / count
    return curves


def against_batches(budget: float) -> Curves:
    """The small network on 4096 examples in so many batches, linearisations kept."""
    torch.manual_seed(1)
    x, y = torch.randn(EXAMPLES, 20), torch.randn(EXAMPLES, 1)
    problem: Problem = tiny()
    curves: Curves = {"HessianOperator": {}}
    for count in BATCHES:
        size = EXAMPLES // count
        data: list[tuple[Tensor, Tensor]] = list(zip(x.split(size), y.split(size), strict=True))
        calls = {
            UNIT: batch_gradient(problem, data),
            "HessianOperator": hvplib_operator(problem, data),
        }
        curves["HessianOperator"][count] = measured(calls, budget)["HessianOperator"]
    return curves


def rows(curves: Curves, corner: str) -> str:
    """Return a table with a column for each size."""
    sizes = list(next(iter(curves.values())))
    cells = {name: [figure(curve[size]) for size in sizes] for name, curve in curves.items()}
    return table(corner, [str(size) for size in sizes], cells)


def draw(panels: Mapping[str, Curves], path: Path) -> None:
    """Draw the curves, one panel for each kind of size; in grey, told apart by lines and marks.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    figure_, all_axes = pyplot().subplots(
        1, len(panels), figsize=(11, 3.6), sharey=True, layout="constrained"
    )
    styles = ["o-", "s--"]
    for axes, (label, curves) in zip(all_axes, panels.items(), strict=True):
        axes.axhline(1, color="0.5", linewidth=1)
        for style, (name, curve) in zip(styles, curves.items(), strict=False):
            axes.loglog(
                list(curve), list(curve.values()), style, color="0.1", markerfacecolor="white", label=name
            )
        sizes = list(next(iter(curves.values())))
        axes.set_xticks(sizes, [f"{size:,}".replace(",", " ") for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.grid(True, color="0.9")
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="lower right" if label == "unknowns" else "lower left")
    values = [value for curves in panels.values() for curve in curves.values() for value in curve.values()]
    ticks = [tick for tick in TICKS if min(values) / 2.5 < tick < 2.5 * max(values)]
    all_axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    all_axes[0].set_ylabel("gradients a vector")
    save(figure_, path)


def main() -> None:
    """Measure, print and draw."""
    parser = arguments(__doc__)
    parser.add_argument("--plot", type=Path, help="file to draw into")
    options = parser.parse_args()
    prepare(options)
    budget = 0.5 if options.quick else 4.0
    panels = {
        "unknowns": against_unknowns(budget),
        "vectors at once": against_vectors(budget),
        "mini-batches": against_batches(budget),
    }
    sections = {f"Against the number of {label}": rows(curves, label) for label, curves in panels.items()}
    publish("scaling", "How the cost of a product grows", sections, packages=("hvplib",), save=options.save)
    if options.plot:
        draw(panels, options.plot)


if __name__ == "__main__":
    main()
