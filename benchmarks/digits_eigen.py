"""The top ten eigenpairs of the demo's network to 1e-6, by every solver: `python -m benchmarks.digits_eigen`.

The Hessian of the mean loss of a 64-20-10 network on all 1797 digits, trained as in the demo, n = 1510. All
multiply by the same product; its number is what is compared, at the largest true relative residual reached.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial

from benchmarks.eigen import PACKAGES, fewest
from benchmarks.eigenproblems import EigenProblem, digits_hessian
from benchmarks.eigensolvers import (
    TOLERANCE,
    Answer,
    Solver,
    arpack,
    eigenthings,
    hvplib_eigsh,
    power_iteration,
    pyhessian,
    run,
)
from benchmarks.tables import arguments, figure, limited, prepare, publish, table

SOLVERS: dict[str, Solver] = {
    "**hvplib.eigsh**": hvplib_eigsh,
    "**hvplib.eigsh**, basis of 40": partial(hvplib_eigsh, krylov_dim=40),
    "**hvplib.eigsh**, no search for missed members": partial(hvplib_eigsh, miss_probability=None),
    "hessian-eigenthings Lanczos, default": partial(eigenthings, doubling=False),
    "hessian-eigenthings Lanczos, max_iter doubled until converged to 1e-6": eigenthings,
    "the same, reorthogonalize=True": partial(eigenthings, reorthogonalize=True),
    "hessian-eigenthings deflated power iteration, max_iter=1000": power_iteration,
    "PyHessian, default": pyhessian,
    "PyHessian, tol=1e-6, maxIter=1000": partial(pyhessian, tolerance=1e-6, limit=1000),
    "PyHessian, tol=1e-9, maxIter=1000": partial(pyhessian, tolerance=1e-9, limit=1000),
    "PyHessian, tol=1e-13, maxIter=1000": partial(pyhessian, tolerance=1e-13, limit=1000),
    "SciPy eigsh (ARPACK)": arpack,
}


def row(problem: EigenProblem, answer: Answer) -> list[str]:
    if isinstance(answer.products, str):
        return [answer.products, "", "", "", "", ""]
    purposes = ", ".join(f"{count} {purpose}" for purpose, count in answer.purposes.items())
    reached = "yes" if answer.residual <= 1.01 * TOLERANCE else "no"
    found = f"{answer.found} of {problem.k}"
    return [str(answer.products), purposes, f"{answer.residual:.0e}", reached, found, figure(answer.seconds)]


def timed(solver: Solver, problem: EigenProblem) -> Answer:
    """One answer, with the median of the seconds of three others, made when all is loaded."""
    first, *others = [run(solver, problem, limit=20_000) for _ in range(4)]
    return replace(first, seconds=statistics.median(other.seconds for other in others))


def known_in_advance(problem: EigenProblem) -> tuple[int, Answer]:
    """Return the fewest steps with which Lanczos without a restart reaches the target, and what they give."""
    for steps in range(2 * problem.k, problem.n):
        solver = partial(eigenthings, steps=steps, reorthogonalize=True)
        answer = run(solver, problem)
        if isinstance(answer.products, str):
            return steps, answer
        if answer.residual <= TOLERANCE:
            return steps, timed(solver, problem)
    raise AssertionError("n steps find everything")


def main() -> None:
    """Run the comparison and print it."""
    options = arguments(__doc__).parse_args()
    prepare(options)
    problem = digits_hessian()
    chosen = {name: s for name, s in SOLVERS.items() if not options.quick or "maxIter" not in name}
    with limited(options.threads):
        answers = {name: timed(solver, problem) for name, solver in chosen.items()}
        _, answers["SciPy eigsh (ARPACK), loosest tol that reaches 1e-6"] = fewest(problem, 0)
        steps, answers["hessian-eigenthings Lanczos, {} steps known in advance"] = known_in_advance(problem)
    rows = {name.format(steps): row(problem, answer) for name, answer in answers.items()}
    columns = ("products", "of which", "largest true residual", "reached 1e-6", "found", "seconds")
    publish(
        "digits-eigen",
        "Top ten eigenpairs of the Hessian of a network on digits",
        {"To a relative true residual of 1e-6": table("", columns, rows)},
        packages=PACKAGES,
        save=options.save,
        dtype="float64",
    )


if __name__ == "__main__":
    main()
