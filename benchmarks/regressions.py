"""Least squares against certified answers: `python -m benchmarks.regressions`.

NIST's reference datasets, from both starts of each. Told are the digits to which parameters and standard
errors agree with the certified ones, −log₁₀ of the largest relative error: eleven are certified. SciPy's
tolerances are all 1e-12.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.optimize
import torch

from benchmarks.problems import NIST, Regression
from benchmarks.tables import arguments, figure, limited, publish, table
from hvplib.optim import minimize
from hvplib.optim.least_squares import least_squares

CERTIFIED = 11
ENOUGH = 6

Array = np.ndarray


@dataclass(frozen=True)
class Fit:
    """What a contender returns.

    Attributes:
        parameters: b (n,).
        errors: Standard errors (n,).
        success: Whether it claims success.
        evaluations: Of the residuals.
    """

    parameters: Array
    errors: Array
    success: bool
    evaluations: int


@dataclass(frozen=True)
class Score:
    """Digits that agree, in parameters and standard errors, and what they cost."""

    parameters: float
    errors: float
    success: bool
    evaluations: int
    seconds: float

    @property
    def enough(self) -> bool:
        return min(self.parameters, self.errors) >= ENOUGH

    def __str__(self) -> str:
        if self.parameters < 1:
            return "elsewhere, **claims success**" if self.success else "elsewhere"
        return f"{self.parameters:.1f} / {self.errors:.1f}"


Contender = Callable[[Regression, int], Fit]


def digits(found: Array, certified: Array) -> float:
    """Return min over entries of −log₁₀ |found / certified − 1|, from 0 to the digits that are certified."""
    error = float(np.abs(found / certified - 1).max())
    if not math.isfinite(error):
        return 0.0
    return min(CERTIFIED, max(0.0, -math.log10(error))) if error > 0 else CERTIFIED


def standard_errors(regression: Regression, b: Array) -> Array:
    """Return √(s² ((JᵀJ)⁻¹)ⱼⱼ), s² = |r|² / (m − n), from J = Q R by the norms of the rows of R⁻¹."""
    at = torch.from_numpy(b)
    jacobian = torch.func.jacrev(regression.residual)(at).numpy()
    variance = float(regression.residual(at).square().sum()) / (len(regression.y) - len(b))
    inverse = np.linalg.inv(np.linalg.qr(jacobian, mode="r"))
    return np.sqrt(variance * (inverse**2).sum(1))


# ----------------------------------------------------------------------------------------------- contenders


def by_least_squares(method: str, regression: Regression, start: int) -> Fit:
    """`hvplib.optim.least_squares`, with its own standard errors."""
    fit = least_squares(regression.residual, regression.starts[start - 1], method=method, max_iter=2000)
    return Fit(fit.x.numpy(), fit.stderr.numpy(), bool(fit.success), fit.nfev)


def by_minimize(method: str, regression: Regression, start: int) -> Fit:
    """`hvplib.minimize` on the sum of squares, which knows nothing of residuals."""
    problem = regression.minimisation(start)
    result = minimize(problem.func, problem.x0, method=method, max_iter=2000, time_limit=20)
    b = result.x.numpy()
    return Fit(b, standard_errors(regression, b), bool(result.success), result.nfev)


def by_scipy(method: str, regression: Regression, start: int) -> Fit:
    """`scipy.optimize.least_squares` with the exact Jacobian, and the columns scaled by it."""

    def residual(b: Array) -> Array:
        return regression.residual(torch.from_numpy(b)).numpy()

    def jacobian(b: Array) -> Array:
        return torch.func.jacrev(regression.residual)(torch.from_numpy(b)).numpy()

    fit = scipy.optimize.least_squares(
        residual,
        regression.starts[start - 1].numpy(),
        jacobian,
        method=method,
        x_scale="jac",
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
        max_nfev=10_000,
    )
    return Fit(fit.x, standard_errors(regression, fit.x), bool(fit.success), fit.nfev)


CONTENDERS: dict[str, Contender] = {
    "**hvplib levenberg-marquardt**": partial(by_least_squares, "levenberg-marquardt"),
    "**hvplib gauss-newton**": partial(by_least_squares, "gauss-newton"),
    "**hvplib minimize, auto**": partial(by_minimize, "auto"),
    "SciPy least_squares, lm": partial(by_scipy, "lm"),
    "SciPy least_squares, trf": partial(by_scipy, "trf"),
    "SciPy least_squares, dogbox": partial(by_scipy, "dogbox"),
}


def attempt(contender: Contender, regression: Regression, start: int) -> Score | str:
    """Return the digits, or the name of the exception."""
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit = contender(regression, start)
        except Exception as error:  # whatever it is, there is no fit
            return type(error).__name__
    return Score(
        digits(fit.parameters, regression.parameters.numpy()),
        digits(fit.errors, regression.deviations.numpy()),
        fit.success,
        fit.evaluations,
        time.process_time() - begun,
    )


# --------------------------------------------------------------------------------------------------- tables


def summary(scores: Mapping[str, Mapping[str, Score | str]]) -> str:
    """Return one row per contender over all datasets and starts."""
    columns = (
        f"{ENOUGH} digits of both",
        "of which claimed",
        "claimed, less than that",
        "evaluations",
        "seconds",
    )
    rows = {}
    for who, own in scores.items():
        done = [score for score in own.values() if isinstance(score, Score)]
        rows[who] = [
            f"{sum(s.enough for s in done)} of {len(own)}",
            str(sum(s.enough and s.success for s in done)),
            str(sum(s.success and not s.enough for s in done)),
            str(sum(s.evaluations for s in done)),
            figure(sum(s.seconds for s in done)),
        ]
    return table("", columns, rows)


def main() -> None:
    """Run the comparison and print it."""
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    starts = (2,) if options.quick else (1, 2)
    scores: dict[str, dict[str, Score | str]] = {who: {} for who in CONTENDERS}
    with limited(options.threads):
        for contender in CONTENDERS.values():
            attempt(contender, NIST["DanWood"], 2)  # pays for lazy imports
        for regression in NIST.values():
            for start in starts:
                for who, contender in CONTENDERS.items():
                    name = f"{regression.name} ({regression.difficulty}), start {start}"
                    scores[who][name] = attempt(contender, regression, start)
    rows = {name: [str(own[name]) for own in scores.values()] for name in next(iter(scores.values()))}
    publish(
        "regressions",
        "Nonlinear regressions with certified answers",
        {
            "In all": summary(scores),
            "Digits of parameters / of standard errors": table("", list(scores), rows),
        },
        packages=("numpy", "scipy"),
        save=options.save,
        dtype="float64",
    )


if __name__ == "__main__":
    main()
