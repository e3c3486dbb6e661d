"""`least_squares`: min ½‖r(x)‖² by products with the Jacobian, with an honest end."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import OptimizeResult
from torch import Tensor
from torch.utils._pytree import tree_map

from hvplib.interrupt import Interrupt
from hvplib.optim.arguments import check_numbers, limits_of
from hvplib.optim.certificate import Curvature, least_curvature
from hvplib.optim.ending import Ending
from hvplib.optim.evaluation import Point
from hvplib.optim.fit_methods import FitMethod, GaussNewton, LevenbergMarquardt, fit_method_of
from hvplib.optim.fit_result import LeastSquaresResult, Statistics
from hvplib.optim.fit_run import FitRun, Orthogonality
from hvplib.optim.gauss_newton import GaussNewtonSteps
from hvplib.optim.levenberg_marquardt import LevenbergMarquardtSteps
from hvplib.optim.linear_model import DenseModels, KrylovModels
from hvplib.optim.run import Advance, Iterate
from hvplib.optim.squares import Fit
from hvplib.optim.start import started
from hvplib.optim.whole_curvature import whole_curvature

__all__ = ["least_squares"]

# Where the general words do not fit.
_MESSAGES = {
    Ending.CONVERGED: (
        "converged: the residual is orthogonal to the columns of J within gtol or rounding, or zero, and a "
        "search found no direction of negative curvature"
    ),
    Ending.MAX_HVP: (
        "max_products products were spent before the residual was orthogonal to the columns of J within "
        "gtol; raise max_products, or go on from x"
    ),
    Ending.UNBOUNDED: (
        "an unknown ran off to where the residual does not depend on it any more, and there is no minimum "
        "there; start elsewhere, or fix that unknown"
    ),
    Ending.NOT_SMOOTH: (
        "no step lowers ½‖r‖², however short, though its gradient says that one should: r has a kink or a "
        "jump at x; smooth it"
    ),
}


def least_squares(
    residual: Callable[..., Any],
    x0: Any,
    *,
    method: FitMethod | str = "levenberg-marquardt",
    gtol: float | None = None,
    ftol: float = 0.0,
    max_iter: int = 2000,
    max_nfev: int | None = None,
    max_products: int | None = None,
    time_limit: float | None = None,
    check_matvecs: int = 100,
    miss_probability: float = 1e-3,
    generator: torch.Generator | int | None = None,
    callback: Callable[[OptimizeResult], object] | None = None,
) -> LeastSquaresResult:
    """x with Jᵀr = 0, a minimum of f(x) = ½‖r(x)‖², from products with the Jacobian J of r.

    x is taken for stationary if r = 0 within rounding, ‖r‖ ≤ 10 eps ‖|J| |x|‖, or orthogonal to all columns:

        |J_jᵀ r| ≤ gtol ‖J_j‖ ‖r‖  for all j,

    which depends neither on the units of r nor on those of x. (Where J is known by products only:
    ‖Jᵀr‖ ≤ gtol ‖J‖ ‖r‖.) Where rounding in r keeps the residual from that, the rounding is measured and
    takes the place of gtol ‖r‖. Then the Hessian of f is asked for its curvature, 2 n products with it where
    J is computed whole: a saddle or a maximum is left along a direction of negative curvature, and never
    returned as a success.

    Args:
        residual: r(x), or r(*x) for a tuple x: a pytree of real tensors of any shapes, m numbers in all, made
            of x by torch operations. Its noise, if any, is the same at each call.
        x0: Where to start: a tensor or a pytree of them, n numbers in all, or an array or numbers, which r
            gets as a tensor of float64 (float32 if the array is).
        method: "levenberg-marquardt" (`LevenbergMarquardt`) or "gauss-newton" (`GaussNewton`). Up to 300
            unknowns J is computed whole; beyond, steps are found by conjugate gradients with J and Jᵀ.
        gtol: Tolerance on the cosines, √eps by default.
        ftol: A step that lowers f by at most ftol max(1, f) ends the iteration, without success; 0 never.
        max_iter: Most steps.
        max_nfev: Most points at which r is evaluated.
        max_products: Most products with J, Jᵀ and the Hessian, each column one.
        time_limit: Seconds.
        check_matvecs: Products that a second-order check may take where J is not computed whole.
        miss_probability: How likely `min_eigenvalue_bound` may then be false, over a random start.
        generator: Of random starts, or a seed; without one, equal calls give equal bits.
        callback: Told after each step an `OptimizeResult` with x, cost, gradient_norm, nit, nfev and
            num_products; a true answer, or StopIteration, ends the run.

    Returns:
        `LeastSquaresResult`, a `scipy.optimize.OptimizeResult`:

        * x, grad: The point, and Jᵀr there, like x0.
        * cost: ½‖r‖², a float.
        * fun: r(x), as `residual` returns it (NumPy arrays if x0 is one).
        * jac: J (m, n) where it is computed whole, a NumPy array if x0 is one, else a tensor; or None.
        * optimality: max |Jᵀr|; orthogonality: the largest cosine |J_jᵀr| / (‖J_j‖ ‖r‖).
        * success, status, message: How it ended; `status` is an `Ending`, 0 for success.
        * nit, nfev, njev, nhev, num_products: Steps, points, points with a J, products with the Hessian,
          products in all. Not counted are the checks of the derivatives at x0.
        * certificate: "minimum" (of a residual that is zero too), "saddle" or "undecided".
        * min_eigenvalue, min_eigenvalue_bound: dᵀ∇²f d of the least eigenvector d found, ‖d‖ = 1, and a
          bound; where J is computed whole, D d is that of D⁻¹∇²f D⁻¹, D_j = ‖J_j‖.
        * direction: Of negative curvature, like x0, for a "saddle"; else None.
        * covariance(), stderr: Statistics of a regression; see `LeastSquaresResult`.
        * history: A row for the start and for each step.
        * method: The settings in use.

    Raises:
        DerivativeError: No way of multiplying with J stands up to the checks.
        OutputError: `residual` returns no tensors.
        TypeError, ValueError: An argument is not as described. What `residual` raises passes through.

    Source: J. J. Moré 1978, 10.1007/BFb0067700; Å. Björck 1996, 10.1137/1.9781611971484.

    Example:
        >>> import numpy as np, torch
        >>> from hvplib.optim.least_squares import least_squares
        >>> t = torch.linspace(0, 2, 20, dtype=torch.float64)
        >>> y = 3 * torch.exp(-1.5 * t) + 0.01 * torch.cos(40 * t)
        >>> fit = least_squares(lambda x: x[0] * torch.exp(-x[1] * t) - y, np.array([1.0, 0.0]))
        >>> fit.x.round(2), fit.stderr.round(3), fit.certificate
        (array([3. , 1.5]), array([0.005, 0.004]), 'minimum')
    """
    settings = fit_method_of(method)
    limits = limits_of(max_nfev=max_nfev, max_products=max_products, time_limit=time_limit)
    check_numbers(
        gtol=gtol,
        ftol=ftol,
        max_iter=max_iter,
        check_matvecs=check_matvecs,
        miss_probability=miss_probability,
    )
    primals, back = started(x0)
    with Interrupt() as interrupt:
        fit = Fit(residual, primals, limits, interrupt, settings.is_dense)
        run = FitRun(
            objective=fit,
            method=_steps(settings, fit),
            tolerances=Orthogonality(fit.eps**0.5 if gtol is None else gtol, ftol, fit),
            max_iter=max_iter,
            curvature_at=_curvature_at(fit, generator, check_matvecs, miss_probability),
            callback=None if callback is None else partial(_told, callback, fit, back),
            interrupt=interrupt,
        )
        ending = run.to_end()
    return _result(run, fit, ending, settings, back)


def _steps(settings: FitMethod, fit: Fit) -> Advance:
    n = fit.shape[1]
    models: DenseModels | KrylovModels
    if fit.dense:
        models = DenseModels(fit, remembers=isinstance(settings, LevenbergMarquardt))
    else:
        models = KrylovModels(fit, max_iter=settings.max_cg_iter or 2 * n)
    if isinstance(settings, LevenbergMarquardt):
        return LevenbergMarquardtSteps(fit, models, settings)
    assert isinstance(settings, GaussNewton)
    return GaussNewtonSteps(fit, models, settings)


def _curvature_at(
    fit: Fit, generator: torch.Generator | int | None, max_matvecs: int, probability: float
) -> Callable[[Point], Curvature]:
    if fit.dense:
        return partial(whole_curvature, fit)
    if not isinstance(generator, torch.Generator):
        generator = torch.Generator().manual_seed(0 if generator is None else generator)
    random = partial(_random, fit, generator)
    return partial(least_curvature, random=random, max_matvecs=max_matvecs, probability=probability)


def _random(fit: Fit, generator: torch.Generator, columns: int) -> Tensor:
    return fit.space.random(generator=generator, columns=columns)


def _told(
    callback: Callable[[OptimizeResult], object],
    fit: Fit,
    back: Callable[[Any], Any],
    point: Point,
    row: Iterate,
) -> bool:
    """What the callback answers; StopIteration is SciPy's way of saying that it is enough."""
    told = OptimizeResult(
        x=back(fit.space.unflatten(point.x.clone())),  # whatever is done with it
        cost=row.fun,
        gradient_norm=row.gradient_norm,
        nit=row.nit,
        nfev=row.nfev,
        num_products=row.nhev,
    )
    try:
        return bool(callback(told))
    except StopIteration:
        return True


def _result(
    run: FitRun, fit: Fit, ending: Ending, settings: FitMethod, back: Callable[[Any], Any]
) -> LeastSquaresResult:
    point, curvature = run.point, run.curvature
    squares = fit.squares(point)
    factor = squares.factor

    def unravel(x: Tensor) -> Any:
        return back(fit.space.unflatten(x))

    x = unravel(point.x)
    saddle = curvature is not None and curvature.negative
    projection = fit.projection(point) if factor is not None or not fit.dense else math.nan
    return LeastSquaresResult(
        x=x,
        cost=point.value,
        fun=tree_map(back, squares.jacobian.value),
        jac=None if factor is None else back(factor.J),
        grad=unravel(point.gradient[:, 0]),
        optimality=point.gradient_norm,
        orthogonality=projection / squares.norm if squares.norm > 0 else 0.0,
        nit=run.nit,
        nfev=fit.num_points,
        njev=fit.num_jacobians,
        nhev=fit.num_matvecs - fit.num_jacobian_products,
        num_products=fit.num_matvecs,
        success=ending.success,
        status=ending,
        message=_MESSAGES.get(ending, ending.message),
        certificate=run.certificate,
        min_eigenvalue=math.nan if curvature is None else curvature.value,
        min_eigenvalue_bound=-math.inf if curvature is None else curvature.bound,
        direction=unravel(curvature.direction[:, 0]) if saddle and curvature is not None else None,
        history=run.history,
        method=settings,
        statistics=Statistics(
            fit.shape,
            factor,
            squares.norm**2,
            fit.eps,
            settings.dense_size,
            fit.space.unflatten(point.x),
            as_array=isinstance(x, np.ndarray),
        ),
    )
