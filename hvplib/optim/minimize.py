"""`minimize`: second-order minimisation that never calls a saddle a minimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from scipy.optimize import OptimizeResult
from torch import Tensor

from hvplib.interrupt import Interrupt
from hvplib.operators.coerce import as_operator
from hvplib.operators.curvature import HessianOperator
from hvplib.optim.build import Block, built
from hvplib.optim.certificate import least_curvature
from hvplib.optim.ending import Ending
from hvplib.optim.evaluation import Limits, Objective
from hvplib.optim.methods import Method, method_of
from hvplib.optim.run import Run, Tolerances
from hvplib.optim.start import started

__all__ = ["minimize"]

_GTOL = {torch.float64: 1e-6}
_GTOL_SINGLE = 1e-3


def minimize(
    func: Callable[..., Any],
    x0: Any,
    data: Iterable[Any] | None = None,
    *,
    method: Method | str = "trust-ncg",
    gtol: float | None = None,
    ftol: float = 0.0,
    max_iter: int = 2000,
    max_nfev: int | None = None,
    max_hvp: int | None = None,
    time_limit: float | None = None,
    preconditioner: Any = None,
    check_matvecs: int = 100,
    miss_probability: float = 1e-3,
    generator: torch.Generator | int | None = None,
    callback: Callable[[OptimizeResult], object] | None = None,
    **options: Any,
) -> OptimizeResult:
    """x with ∇f(x) = 0 and ∇²f(x) ≥ 0, from the value, the gradient and products with the Hessian."""
    settings = method_of(method)
    primals, back = started(x0)
    with Interrupt() as interrupt:
        operator = HessianOperator(func, primals, data, **options)
        limits = Limits(max_nfev or math.inf, max_hvp or math.inf, time_limit or math.inf)
        objective = Objective(operator, limits, interrupt)
        del operator  # the objective's first point holds it, and lets go of it
        random = _random(objective.start.x, generator)
        run = Run(
            objective=objective,
            method=built(settings, objective, None if preconditioner is None else _product(preconditioner)),
            tolerances=Tolerances(_default_gtol(objective) if gtol is None else gtol, ftol),
            max_iter=max_iter,
            curvature_at=partial(
                least_curvature, random=random, max_matvecs=check_matvecs, probability=miss_probability
            ),
            callback=None,
            interrupt=interrupt,
        )
        ending = run.to_end()
    return _result(run, ending, settings, lambda x: back(objective.space.unflatten(x)))


def _default_gtol(objective: Objective) -> float:
    return _GTOL.get(objective.space.dtype, _GTOL_SINGLE)


def _product(preconditioner: Any) -> Block:
    return as_operator(preconditioner, "preconditioner")._product


def _random(like: Tensor, generator: torch.Generator | int | None) -> Block:
    if not isinstance(generator, torch.Generator):
        generator = torch.Generator().manual_seed(0 if generator is None else generator)

    def random(columns: int) -> Tensor:
        shape = columns, like.shape[0]
        rows = torch.randn(shape, generator=generator, dtype=like.dtype, device=generator.device)
        return rows.to(like.device).mT

    return random


def _result(run: Run, ending: Ending, settings: Method, back: Callable[[Tensor], Any]) -> OptimizeResult:
    curvature, objective = run.curvature, run.objective
    return OptimizeResult(
        x=back(run.point.x),
        fun=run.point.value,
        jac=back(run.point.gradient[:, 0]),
        nit=run.nit,
        nfev=objective.num_points,
        njev=objective.num_points,
        nhev=objective.num_matvecs,
        success=ending.success,
        status=ending,
        message=ending.message,
        gradient_norm=run.point.gradient_norm,
        certificate=run.certificate,
        min_eigenvalue=math.nan if curvature is None else curvature.value,
        min_eigenvalue_bound=-math.inf if curvature is None else curvature.bound,
        direction=back(curvature.direction[:, 0]) if run.certificate == "saddle" and curvature else None,
        history=run.history,
        method=settings,
    )
