"""What comes before the first fast product: `python -m benchmarks.setup_cost`.

Importing, differentiating, verifying, recording and compiling, in gradients and in seconds, for perceptrons
of growing depth and the problems of the other tables.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable

import hvplib
from benchmarks.contenders import gradient
from benchmarks.problems import PROBLEMS, Problem, mlp_problem
from benchmarks.tables import arguments, figure, prepare, publish, table
from benchmarks.timing import clock

DEPTHS = (2, 5, 10, 20)
COLUMNS = ("gradient", "differentiating", "verifying", "recording", "recording", "compiling")
UNITS = ("ms", "gradients", "gradients", "gradients", "s", "s")


def seconds(call: Callable[[], object]) -> float:
    start = clock()
    call()
    return clock() - start


def row(problem: Problem, rounds: int, *, compiled: bool) -> list[str]:
    """Return the costs for one problem: medians over rounds."""
    v, compute = problem.tangents(), gradient(problem)
    compute()
    taken: list[tuple[float, ...]] = []
    for _ in range(rounds):
        unit = min(seconds(compute) for _ in range(3))
        model = None

        def build(problem: Problem = problem) -> None:
            nonlocal model
            model = hvplib.local_model(problem.func, problem.params, engine="record", verify=False)

        built = seconds(build)
        assert model is not None
        first = seconds(lambda model=model: model.hvp(v))  # one from the graph, the record, one to compare
        checked = hvplib.local_model(problem.func, problem.params, engine="graph")
        verified = seconds(lambda checked=checked: checked.hvp(v))
        taken.append((1e3 * unit, built / unit, verified / unit, first / unit, first))
    medians = [statistics.median(column) for column in zip(*taken, strict=True)]
    cells = [figure(value) for value in medians]
    if compiled:
        slow = hvplib.local_model(problem.func, problem.params, engine="compile", verify=False)
        cells.append(figure(seconds(lambda: slow.hvp(v))))
    return [*cells, *[""] * (len(COLUMNS) - len(cells))]


def imports(rounds: int) -> str:
    """Return how long a fresh process takes to import torch, the library, and to a first product."""
    first = "import torch, hvplib; hvplib.hvp(lambda x: (x**3).sum(), torch.ones(3), torch.ones(3))"
    statements = {"torch": "import torch", "torch, hvplib": "import torch, hvplib", "a first product": first}
    times: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(rounds):
        for name, statement in statements.items():
            probe = f"import time; s = time.process_time(); {statement}; print(time.process_time() - s)"
            done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
            times[name].append(float(done.stdout))
    return table(
        "seconds of the processor", [""], {n: [figure(statistics.median(t))] for n, t in times.items()}
    )


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--compile", action="store_true", help="compile as well: minutes")
    options = parser.parse_args()
    prepare(options)
    rounds = 2 if options.quick else 5
    columns = [f"{name}, {unit}" for name, unit in zip(COLUMNS, UNITS, strict=True)]
    depths = {
        f"{depth} layers of 64": mlp_problem(f"{depth} layers", (64,) * (depth + 1), 64, classes=False)
        for depth in DEPTHS
    }
    problems = depths | {name: build() for name, build in PROBLEMS.items()}
    rows = {name: row(problem, rounds, compiled=options.compile) for name, problem in problems.items()}
    publish(
        "setup",
        "Set-up",
        {"Before the first fast product": table("", columns, rows), "Importing": imports(rounds)},
        packages=("hvplib",),
        save=options.save,
    )


if __name__ == "__main__":
    main()
