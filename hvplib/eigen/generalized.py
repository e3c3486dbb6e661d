"""A x = λ M x: eigenvalues of M⁻¹ A, which is symmetric in the inner product of M."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hvplib.eigen.certainty import Certainty
from hvplib.eigen.evidence import Evidence, of_outcome
from hvplib.eigen.lanczos import Problem, run_lanczos
from hvplib.eigen.lobpcg import LOBPCG, run_lobpcg
from hvplib.eigen.methods import Dense, Lanczos, Method
from hvplib.eigen.metric import Metric, metric_of
from hvplib.eigen.recomputed import floor
from hvplib.eigen.saved import Saved
from hvplib.eigen.spent import Spent
from hvplib.eigen.whole_space import whole_space
from hvplib.krylov.eigen_outcome import EigenOutcome
from hvplib.krylov.ends import Which
from hvplib.krylov.inner import Weighted
from hvplib.operators.base import Operator
from hvplib.operators.basic import Matrix
from hvplib.operators.coerce import as_symmetric
from hvplib.results.status import Progress, Status

__all__ = ["mass_of", "run_generalized"]

# LOBPCG measures residuals in another norm; it is sent on so often with a smaller tolerance.
_ROUNDS = 3


def mass_of(M: Any, operator: Operator) -> Operator:
    """M as an operator that fits A.

    Raises:
        ValueError: M is not symmetric, or of another shape or device than A.
        TypeError: M has another dtype than A.
    """
    mass = as_symmetric(M, "M")
    if mass.shape != operator.shape:
        raise ValueError(f"M must have the shape of A, {operator.shape}, got {mass.shape}")
    if mass.torch_dtype != operator.torch_dtype:
        raise TypeError(
            f"M must have the dtype of A, {operator.torch_dtype}, got {mass.torch_dtype}; convert one of them"
        )
    if mass.device != operator.device:
        raise ValueError(f"M must be on the device of A, {operator.device}, got {mass.device}")
    return mass


def run_generalized(
    operator: Operator,
    mass: Operator,
    k: int,
    which: Which,
    settings: Method,
    *,
    start: Tensor | None = None,
    generator: torch.Generator,
    precondition: Callable[[Tensor], Tensor] | None = None,
    rtol: float,
    callback: Callable[[Progress], object] | None = None,
    time_limit: float | None = None,
    saved: Saved | None = None,
) -> tuple[EigenOutcome, Evidence]:
    """A x = θ M x for k pairs at the ends of the spectrum, with xᵀM x = 1.

    Residual norms are those of r = A x − θ M x in the norm of M⁻¹, √(rᵀM⁻¹ r): in that norm some eigenvalue
    is within ‖r‖ of θ, and what else is true of a symmetric A is true of the pencil, for M⁻¹ A is symmetric
    in the inner product of M, where its residuals M⁻¹ r have these lengths. A pair has converged if
    ‖r‖ ≤ max(rtol |θ|, c ε ‖M⁻¹ A‖).

    "lanczos" multiplies with M⁻¹ A in the inner product of M, for which it needs M⁻¹: of a diagonal, a matrix
    (by its Cholesky factor) or a preconditioner it is at hand, of another operator each product is found by
    conjugate gradients, which costs about √κ(M) log(1/ε) products with M for each with A. "lobpcg" needs M
    alone, but more products with A, unless there is a preconditioner; M⁻¹ is used at the end to measure
    residuals. "dense" forms both matrices.

    Args:
        operator: A (n, n), symmetric.
        mass: M (n, n), symmetric positive definite.
        k: Pairs wanted.
        which: "LA", "SA", "LM" or "BE".
        settings: Method.
        start: Columns (n, j) to start from; random if None.
        generator: Of random columns.
        precondition: As for `run_lobpcg`.
        rtol: Relative tolerance.
        callback: Is told a `Progress` after each step.
        time_limit: Seconds.
        saved: Where "lanczos" keeps its state, if anywhere.

    Raises:
        ValueError: M is not positive definite, or all but singular, or the method takes no M.

    Source: Parlett, The Symmetric Eigenvalue Problem, 1998, chapter 15, 10.1137/1.9781611971163.
    """
    if isinstance(settings, Lanczos):
        return _by_lanczos(
            operator, mass, k, which, settings, start, generator, rtol, callback, time_limit, saved
        )
    if isinstance(settings, LOBPCG):
        return _by_lobpcg(
            operator, mass, k, which, settings, start, generator, precondition, rtol, callback, time_limit
        )
    if isinstance(settings, Dense):
        return _by_matrices(operator, mass, k, which, settings, rtol)
    raise ValueError(f"method {settings} takes no M; use 'lanczos', 'lobpcg' or 'dense'")


def _random(operator: Operator, metric: Metric, generator: torch.Generator) -> Callable[[int], Tensor]:
    def random(columns: int) -> Tensor:
        shape = columns, operator.shape[0]
        rows = torch.randn(shape, generator=generator, dtype=operator.torch_dtype, device=generator.device)
        Z = rows.to(operator.device).mT
        return Z if metric.root is None else metric.root(Z)

    return random


def _by_lanczos(
    operator: Operator,
    mass: Operator,
    k: int,
    which: Which,
    settings: Lanczos,
    start: Tensor | None,
    generator: torch.Generator,
    rtol: float,
    callback: Callable[[Progress], object] | None,
    time_limit: float | None,
    saved: Saved | None,
) -> tuple[EigenOutcome, Evidence]:
    spent, metric = Spent(operator, mass), metric_of(mass)
    x = _random(operator, metric, torch.Generator().manual_seed(0))(1)
    square = float(torch.linalg.vecdot(x, mass._product(x), dim=0))
    if square <= 0:
        raise ValueError(f"M must be positive definite, but a vector x with xᵀM x = {square:.2g} was met")
    if not math.isfinite(square):
        outcome = EigenOutcome.empty(x, Status.NON_FINITE, *spent.now())
        return outcome, Evidence(method=settings, by_purpose={}, rounding=math.nan)

    def weighed(X: Tensor) -> Tensor:
        # Where squares might leave the range of float32, they are summed in float64.
        return mass._product(X.to(mass.torch_dtype)).to(X.dtype)

    problem = Problem(
        lambda X: metric.inverse(operator._product(X)),
        operator.shape[0],
        _random(operator, metric, generator),
        generator,
        Weighted(weighed),
    )
    outcome, evidence = run_lanczos(
        problem,
        k,
        which,
        settings,
        start=start,
        rtol=rtol,
        callback=callback,
        time_limit=time_limit,
        saved=saved,
    )
    if metric.root is None:
        # What is normal in the coordinates is not uniform in the metric.
        evidence = replace(evidence, certainty=Certainty())
    return replace(outcome, num_mass_matvecs=spent.now()[1]), evidence


def _by_matrices(
    operator: Operator, mass: Operator, k: int, which: Which, settings: Dense, rtol: float
) -> tuple[EigenOutcome, Evidence]:
    spent = Spent(operator, mass)
    matrix = Matrix(mass.to_dense(), symmetric=True)
    outcome = whole_space(operator, k, which, matrix, rtol)
    if outcome.values.numel():
        outcome = _measured(operator, metric_of(matrix), outcome, rtol, torch.Generator().manual_seed(0))
    if outcome.status is Status.CONVERGED and not bool(outcome.converged.all()):
        outcome = replace(outcome, status=Status.STAGNATED)
    return _accounted(outcome, spent, settings, which, whole=True)


def _by_lobpcg(
    operator: Operator,
    mass: Operator,
    k: int,
    which: Which,
    settings: LOBPCG,
    start: Tensor | None,
    generator: torch.Generator,
    precondition: Callable[[Tensor], Tensor] | None,
    rtol: float,
    callback: Callable[[Progress], object] | None,
    time_limit: float | None,
) -> tuple[EigenOutcome, Evidence]:
    spent, metric = Spent(operator, mass), metric_of(mass)
    deadline = math.inf if time_limit is None else time.monotonic() + time_limit
    asked, num_iter, history = rtol, 0, []
    for _ in range(_ROUNDS):
        outcome = run_lobpcg(
            operator,
            k,
            which,
            settings,
            start=start,
            mass=mass,
            precondition=precondition,
            generator=generator,
            rtol=asked,
            callback=callback,
            time_limit=None if time_limit is None else max(deadline - time.monotonic(), 1e-9),
        )
        num_iter += outcome.num_iter
        history.append(outcome.history)
        ended = outcome.status
        if outcome.values.numel():
            outcome = _measured(operator, metric, outcome, rtol, generator)
        if ended is not Status.CONVERGED or bool(outcome.converged.all()):
            break
        tolerances = _tolerances(operator, outcome, rtol)
        asked *= 0.5 * float((tolerances / outcome.residual_norms).min())
        start = outcome.vectors
        ended = Status.STAGNATED  # unless the next round says something else
    outcome = replace(outcome, status=ended, num_iter=num_iter, history=torch.cat(history))
    return _accounted(outcome, spent, settings, which, whole=False)


def _measured(
    operator: Operator, metric: Metric, outcome: EigenOutcome, rtol: float, generator: torch.Generator
) -> EigenOutcome:
    """The outcome with values, residual norms and ‖M⁻¹ A‖ in the metric, from products made for them."""
    # One random vector more, for the norm: those of the smallest eigenvalues say little of it.
    X = torch.cat([outcome.vectors.mT, _random(operator, metric, generator)(1).mT]).mT
    AX, MX = operator._product(X), metric.mass._product(X)
    lengths = torch.linalg.vecdot(X, MX, dim=0)
    values = torch.linalg.vecdot(X, AX, dim=0) / lengths
    R = AX - MX * values
    squares = torch.linalg.vecdot(R, metric.inverse(R), dim=0) / lengths
    values, norms = values.to("cpu", torch.float64), squares.clamp(min=0).sqrt().to("cpu", torch.float64)
    found = replace(
        outcome,
        values=values[:-1],
        residual_norms=norms[:-1].nan_to_num(nan=math.inf),
        operator_norm=float(torch.hypot(values, norms).max()),
    )
    return replace(found, converged=found.residual_norms <= _tolerances(operator, found, rtol))


def _tolerances(operator: Operator, outcome: EigenOutcome, rtol: float) -> Tensor:
    rounding = floor(operator.shape[0], operator.torch_dtype) * outcome.operator_norm
    return (rtol * outcome.values.abs()).clamp(min=rounding)


def _accounted(
    outcome: EigenOutcome, spent: Spent, settings: Method, which: Which, *, whole: bool
) -> tuple[EigenOutcome, Evidence]:
    num_matvecs, num_mass_matvecs = spent.now()
    confirmed = outcome.num_confirmations + outcome.values.numel()
    outcome = replace(
        outcome,
        num_matvecs=num_matvecs,
        num_mass_matvecs=num_mass_matvecs,
        num_confirmations=confirmed,
    )
    return outcome, of_outcome(outcome, settings, which, whole=whole)
