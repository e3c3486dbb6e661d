"""Time to a fixed loss on real problems, beside L-BFGS of torch and SciPy: `python -m benchmarks.optim_real`.

Told is when the value first fell to each target: seconds of the processor, the least of some rounds, and the
gradients + products spent until then. All start from the same point; each runs until the last target is
reached, it gives up, or its time is over.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import process_time
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from benchmarks.minimisers import value_and_gradient
from benchmarks.problems import REAL, Minimisation
from benchmarks.tables import arguments, figure, limited, publish, table
from hvplib.optim import minimize
from hvplib.optim.methods import NAMES

# Both keep twenty pairs: more than their defaults, 10 and 100, would change little.
_PAIRS = 20
_DENSE = ("trust-exact",)

TARGETS: dict[str, Sequence[float]] = {
    "logistic regression": tuple(358.548947734 * (1 + gap) for gap in (1e-2, 1e-5, 1e-8)),
    "digits net": (0.5, 0.2, 0.16),
    "matrix factorisation": tuple(2.4163532568673807 * (1 + gap) for gap in (1e-2, 1e-5, 1e-8)),
    "PINN, Poisson": (1e-1, 1e-3, 1e-5, 1e-7),
    "PINN, Burgers": (1e-1, 1e-2, 1e-3, 1e-4),
}


class Enough(Exception):
    """The last target is reached, or the time is over."""


@dataclass
class Course:
    """What was reached when.

    Attributes:
        last: The last target.
        seconds: The time of the processor that a contender has.
        rows: Seconds, value, and gradients + products spent, in the order of time.
    """

    last: float
    seconds: float
    rows: list[tuple[float, float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._begun = process_time()

    def note(self, value: float, spent: int) -> bool:
        """Add a row; whether it is enough."""
        elapsed = process_time() - self._begun
        self.rows.append((elapsed, value, spent))
        return value <= self.last or elapsed > self.seconds

    def note_or_stop(self, value: float, spent: int) -> None:
        """Add a row, and leave the contender if it is enough."""
        if self.note(value, spent):
            raise Enough

    def reached(self, target: float) -> tuple[float, int] | None:
        """When the value first fell to the target, and what had been spent; None if it never did."""
        return next(((elapsed, spent) for elapsed, value, spent in self.rows if value <= target), None)

    @property
    def lowest(self) -> float:
        """The lowest value; NaN if there is none."""
        return min((value for _, value, _ in self.rows), default=math.nan)


Contender = Callable[[Minimisation, Course], None]


def by_hvplib(method: str, problem: Minimisation, course: Course) -> None:
    def told(step: Any) -> bool:
        return course.note(step.fun, step.nfev + step.nhev)

    minimize(
        problem.func,
        problem.x0,
        method=method,
        gtol=1e-12,
        max_iter=100_000,
        callback=told,
    )


def by_torch(problem: Minimisation, course: Course) -> None:
    x = problem.x0.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x],
        history_size=_PAIRS,
        max_iter=100_000,
        max_eval=100_000,
        tolerance_grad=1e-12,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = problem.func(x)
        value.backward()
        course.note_or_stop(float(value.detach()), len(course.rows) + 1)
        return value

    optimizer.step(closure)


def by_scipy(problem: Minimisation, course: Course) -> None:
    def noted(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = value_and_gradient(problem, x)
        course.note_or_stop(value, len(course.rows) + 1)
        return value, gradient

    limits = {"maxcor": _PAIRS, "maxiter": 100_000, "maxfun": 100_000, "gtol": 1e-12, "ftol": 0.0}
    scipy.optimize.minimize(noted, problem.x0.numpy(), jac=True, method="L-BFGS-B", options=limits)


CONTENDERS: dict[str, Contender] = {
    **{f"**hvplib {name}**": partial(by_hvplib, name) for name in NAMES if name not in _DENSE},
    "torch.optim.LBFGS": by_torch,
    "SciPy L-BFGS-B": by_scipy,
}


def followed(contender: Contender, problem: Minimisation, targets: Sequence[float], seconds: float) -> Course:
    """Run a contender, and return its course."""
    course = Course(targets[-1], seconds)
    with contextlib.suppress(Enough):
        contender(problem, course)
    return course


def compare(problem: Minimisation, targets: Sequence[float], seconds: float, rounds: int) -> str:
    """Return one row per contender, the best of rounds in which all take turns."""
    courses: dict[str, list[Course]] = {who: [] for who in CONTENDERS}
    start = [float(problem.func(problem.x0))]
    for contender in CONTENDERS.values():
        followed(contender, problem, start, seconds)  # pays for what is lazy
    for _ in range(rounds):
        for who, contender in CONTENDERS.items():
            courses[who].append(followed(contender, problem, targets, seconds))
    rows = {
        who: [*(told(own, target) for target in targets), f"{min(course.lowest for course in own):.6g}"]
        for who, own in courses.items()
    }
    return table("", [*(f"f ≤ {target:.10g}" for target in targets), "lowest f"], rows)


def told(courses: Sequence[Course], target: float) -> str:
    """Return the shortest time to the target and what was spent, or a dash where no course reached it."""
    reached = [found for course in courses if (found := course.reached(target)) is not None]
    if not reached:
        return "-"
    elapsed, spent = min(reached)
    return f"{figure(elapsed)} s, {spent}"


def main() -> None:
    """Run the comparison and print it."""
    parser = arguments(__doc__)
    parser.add_argument("--problems", nargs="+", default=list(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--time-limit", type=float, help="seconds for each contender on each problem (60)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the shortest time counts (3)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sections = {}
    with limited(options.threads):
        for name in options.problems:
            problem = REAL[name]()
            seconds = options.time_limit or (5 if options.quick else 60)
            sections[f"{name}, n = {problem.size}"] = compare(problem, TARGETS[name], seconds, options.rounds)
    packages = ("numpy", "scipy")
    publish("optim-real", "Time to a loss", sections, packages=packages, save=options.save, dtype="float64")


if __name__ == "__main__":
    main()
