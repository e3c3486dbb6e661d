"""Minimisers beside SciPy's and pytorch-minimize's on classical problems: `python -m benchmarks.optim`.

Each contender minimises each problem from its standard start, in at most 2000 iterations and a limited time.
Solved means ‖∇f‖∞ ≤ 1e-6 max(1, |f|) or f ≤ f* + 1e-8 max(1, |f*|), judged where the contender ended,
whatever it claims; a false success is a claim that this does not bear out. A cost is gradients + products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmarks.contest import Absent
from benchmarks.minimisers import CONTENDERS, Contender, Outcome, run
from benchmarks.problems import CLASSICAL, NIST, REAL, Minimisation, indef
from benchmarks.profiles import Costs, draw, profile
from benchmarks.tables import arguments, figure, limited, publish, table

Maker = Callable[[], Minimisation]
Outcomes = dict[str, dict[str, Outcome | str]]  # by problem and contender; a reason where there is none

PACKAGES = ("numpy", "scipy", "pytorch-minimize")
TAUS = (1, 2, 4, 8, 32)

SETS: dict[str, dict[str, Maker]] = {
    "classical": CLASSICAL,
    "unbounded": {"INDEF": indef},
    "nist": {
        problem.name: lambda problem=problem: problem
        for regression in NIST.values()
        for problem in (regression.minimisation(1), regression.minimisation(2))
    },
    "real": REAL,
}


def contest(problems: Mapping[str, Maker], contenders: Mapping[str, Contender], seconds: float) -> Outcomes:
    """Let every contender minimise every problem, after a run that pays for lazy imports."""
    for contender in contenders.values():
        _attempt(contender, CLASSICAL["HIMMELBG"](), seconds)
    outcomes: Outcomes = {}
    for name, make in problems.items():
        problem = make()
        outcomes[name] = {who: _attempt(contender, problem, seconds) for who, contender in contenders.items()}
    return outcomes


def _attempt(contender: Contender, problem: Minimisation, seconds: float) -> Outcome | str:
    try:
        return run(contender, problem, seconds)
    except Absent as reason:
        return str(reason)


def costs(outcomes: Outcomes, cost: Callable[[Outcome], float]) -> dict[str, dict[str, float]]:
    """Return the costs of the contenders that took part, infinite where a problem was not solved."""
    result: dict[str, dict[str, float]] = {}
    for name, row in outcomes.items():
        for who, outcome in row.items():
            solved = isinstance(outcome, Outcome) and outcome.solved
            result.setdefault(who, {})[name] = cost(outcome) if solved else math.inf  # type: ignore[arg-type]
    return {who: own for who, own in result.items() if _took_part(outcomes, who)}


def _took_part(outcomes: Outcomes, who: str) -> bool:
    return any(isinstance(row[who], Outcome) for row in outcomes.values())


# --------------------------------------------------------------------------------------------------- tables


def per_problem(row: Mapping[str, Outcome | str]) -> str:
    """Return what every contender made of one problem."""
    columns = ("f", "‖∇f‖∞", "points", "products", "seconds", "verdict")
    rows = {}
    for who, outcome in row.items():
        if isinstance(outcome, str):
            rows[who] = ["", "", "", "", "", outcome]
        else:
            numbers = [f"{outcome.value:.9g}", f"{outcome.gradient:.1e}", str(outcome.points)]
            numbers += [str(outcome.products), figure(outcome.seconds)]
            rows[who] = [*numbers, outcome.verdict]
    return table("", columns, rows)


def summary(outcomes: Outcomes) -> str:
    """Return the totals of each contender over all problems."""
    claims = ("solved", "false successes", "solved, not claimed", "out of time")
    columns = (*claims, "evaluations", "products", "seconds")
    rows = {}
    for who in next(iter(outcomes.values())):
        own = [row[who] for row in outcomes.values()]
        done = [outcome for outcome in own if isinstance(outcome, Outcome)]
        if not done:
            rows[who] = [str(own[0]), *[""] * (len(columns) - 1)]
            continue
        solved = sum(o.solved for o in done)
        rows[who] = [
            f"{solved} of {len(own)}",
            str(sum(o.success and not o.solved for o in done)),
            str(sum(o.solved and not o.success for o in done)),
            str(sum("time limit" in o.message for o in done)),
            str(sum(o.points for o in done)),
            str(sum(o.products for o in done)),
            figure(sum(o.seconds for o in done)),
        ]
    return table("", columns, rows)


def profiles(all_costs: Costs) -> str:
    """Return the shares solved within τ of the least cost."""
    shares = [profile(all_costs, tau) for tau in TAUS]
    rows = {who: [f"{100 * share[who]:.0f} %" for share in shares] for who in all_costs}
    return table("", [f"τ = {tau}" for tau in TAUS], rows)


def main() -> None:
    """Run the comparison and print it."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--problems", nargs="+", default=["classical", "unbounded"], help=f"of {', '.join(SETS)}, or names"
    )
    parser.add_argument(
        "--contenders", nargs="+", default=[""], help="only those whose names contain one of these"
    )
    parser.add_argument("--time-limit", type=float, help="seconds for each contender on each problem (60)")
    parser.add_argument("--plot", type=Path, help="draw the profiles into this file (needs matplotlib)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    everything = {name: make for makers in SETS.values() for name, make in makers.items()}
    chosen: dict[str, Maker] = {}
    for word in options.problems:
        chosen |= SETS[word] if word in SETS else {word: everything[word]}
    contenders = {who: c for who, c in CONTENDERS.items() if any(part in who for part in options.contenders)}
    with limited(options.threads):
        outcomes = contest(chosen, contenders, options.time_limit or (5 if options.quick else 60))
    bounded = {name: row for name, row in outcomes.items() if chosen[name]().minimum != -math.inf}
    by_cost, by_time = costs(bounded, lambda o: o.cost), costs(bounded, lambda o: o.seconds)
    sections = {"All problems with a minimum": summary(bounded)} if bounded else {}
    if bounded:
        sections["Solved within τ times the fewest gradients + products"] = profiles(by_cost)
        sections["Solved within τ times the shortest time"] = profiles(by_time)
    for name, row in outcomes.items():
        problem = chosen[name]()
        sections[f"{name}, n = {problem.size}, f* = {problem.minimum}"] = per_problem(row)
    publish("optim", "Minimisers", sections, packages=PACKAGES, save=options.save, dtype="float64")
    if options.plot is not None and bounded:
        draw({"gradients + products": by_cost, "time": by_time}, options.plot)
        print(f"profiles drawn in {options.plot}")


if __name__ == "__main__":
    main()
