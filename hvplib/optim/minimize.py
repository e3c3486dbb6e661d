"""`minimize`: second-order minimisation that never calls a saddle a minimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from scipy.optimize import OptimizeResult
from torch import Tensor
from torch.utils._pytree import tree_map

from hvplib.errors import DerivativeError
from hvplib.interrupt import Interrupt
from hvplib.operators.curvature import HessianOperator
from hvplib.optim.arguments import check_numbers, limits_of
from hvplib.optim.bounded_curvature import least_curvature_within
from hvplib.optim.bounds import bounded, method_within, proven_inside
from hvplib.optim.box import Box
from hvplib.optim.build import built, chosen
from hvplib.optim.certificate import least_curvature
from hvplib.optim.ending import Ending
from hvplib.optim.evaluation import Objective, Point
from hvplib.optim.methods import Method, TrustExact, method_of
from hvplib.optim.preconditioning import preconditioning
from hvplib.optim.run import Iterate, Run, Tolerances
from hvplib.optim.start import started

__all__ = ["minimize"]

# max |∇f_i| of order one to be told from zero: six digits, or half of what the precision has.
_GTOL = {True: 1e-6, False: 1e-3}


def minimize(
    func: Callable[..., Any],
    x0: Any,
    data: Iterable[Any] | None = None,
    *,
    method: Method | str = "auto",
    gtol: float | None = None,
    ftol: float = 0.0,
    max_iter: int = 2000,
    max_nfev: int | None = None,
    max_hvp: int | None = None,
    time_limit: float | None = None,
    bounds: Any = None,
    preconditioner: Any = None,
    check_matvecs: int = 100,
    miss_probability: float = 1e-3,
    generator: torch.Generator | int | None = None,
    callback: Callable[[OptimizeResult], object] | None = None,
    **options: Any,
) -> OptimizeResult:
    """x with ∇f(x) = 0 and ∇²f(x) ≥ 0, from the value, the gradient and products with the Hessian.

    x is taken for stationary if max |∇f_i| ≤ gtol. Then curvature is asked for: of at most 64 unknowns by the
    whole Hessian, n products, of more by Lanczos from a random start, `check_matvecs` products at most. Where
    it is negative, f is lowered along the direction found and the iteration goes on. Where it is positive,
    also at twice the distance at which the minimum must lie, two points and two products more, the
    certificate is "minimum". Where neither can be said, third derivatives are probed for, at six points for
    each of three directions at most, and it is "undecided". Negative is what is below −100 eps ‖∇²f‖, where
    rounding begins, and below −2 √n max |∇f_i| / max(1, ‖x‖), which matters less than the gradient.

    `success` means that x is stationary and no negative curvature was found; every other end has a message
    that names what happened, and says what to do. Ctrl-C, limits and the callback return the best so far.

    With bounds, l ≤ x ≤ u, x is taken for stationary if max |x − P(x − ∇f)| ≤ gtol, P the projection onto
    them, and curvature is that of the variables whose gradient is within gtol, along directions that stay
    inside. f is evaluated at no point outside; a start outside is projected, as SciPy does.

    Args:
        func: f(x), or func(x, batch) with data; for a tuple x, func(*x). Returns a real scalar tensor.
        x0: Where to start: a tensor or a pytree of them, or an array or numbers, which f gets as a tensor of
            float64 (float32 if the array is).
        data: Mini-batches whose weighted mean f is; see `HessianOperator`.
        method: "trust-krylov" (`TrustKrylov`), "trust-ncg" (`TrustNCG`), "trust-exact" (`TrustExact`), "arc"
            (`ARC`), "newton-cg" (`LineSearchNewtonCG`), "newton-mr" (`NewtonMR`); "auto" is "trust-exact"
            up to 64 unknowns, and for more "trust-krylov", or "trust-ncg" where a basis of 200 vectors takes
            more than an eighth of the free memory.
        gtol: Tolerance on the gradient; 1e-6, or 1e-3 if any of x0 is coarser than float64.
        ftol: A step that lowers f by at most ftol max(1, |f|) ends the iteration, without success; 0 never.
        max_iter: Most steps.
        max_nfev: Most points at which f is evaluated, each with its gradient.
        max_hvp: Most products with the Hessian.
        time_limit: Seconds.
        bounds: (lower, upper), each None, a number, or like x0 (pytrees may hold None and numbers), or a
            `scipy.optimize.Bounds`; ±inf for no bound. For "trust-ncg", which "auto" is then.
        preconditioner: P ≈ (∇²f)⁻¹, symmetric positive definite: an operator or a matrix, or a function
            x ↦ operator, asked at each point. The trust region's norm is ‖s‖ = √(sᵀP⁻¹s).
        check_matvecs: Products that a second-order check may take.
        miss_probability: How likely `min_eigenvalue_bound` may be false, over the random start of Lanczos.
        generator: Of random starts, or a seed; without one, equal calls give equal bits.
        callback: Told after each step an `OptimizeResult` with x, fun, gradient_norm, nit, nfev and nhev; a
            true answer, or StopIteration, ends the run.
        options: As for `HessianOperator`: weight, reduction, strategy, memory_budget, seed, progress.

    Returns:
        `scipy.optimize.OptimizeResult`:

        * x, jac: The point, and the gradient there, like x0.
        * fun: f(x), a float.
        * success, status, message: How it ended; `status` is an `Ending`, 0 for success.
        * nit, nfev, njev, nhev: Steps, points (value and gradient at once) and products. Not counted are the
          checks of the way of differentiating, about ten gradients at x0.
        * gradient_norm: max |∇f_i|, with bounds max |x − P(x − ∇f)|.
        * active, start_projected: With bounds, −1 where x_i = l_i, 1 where x_i = u_i, else 0, like x0; and
          whether x0 was outside.
        * certificate: "minimum", "saddle" or "undecided".
        * min_eigenvalue, min_eigenvalue_bound: Above and below λ_min(∇²f(x)), the former to rounding, the
          latter with rounding taken off, but for `miss_probability`; NaN and −∞ where curvature was not asked
          for.
        * direction: Of negative curvature, like x0, for a "saddle"; else None.
        * history: A row for the start and for each step, with what was spent until then.
        * method: The settings in use.

    Raises:
        DerivativeError: No way of multiplying with the Hessian stands up to the checks.
        TypeError, ValueError: An argument is not as described. What func raises passes through.

    Source: A. R. Conn, N. I. M. Gould, P. L. Toint 2000, Trust-region methods, 10.1137/1.9780898719857.

    Example:
        >>> import torch
        >>> from hvplib import minimize
        >>> result = minimize(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, torch.zeros(2).double())
        >>> result.x.abs().round(decimals=6), round(result.fun, 6)
        (tensor([0.0000, 0.7071], dtype=torch.float64), -0.25)
        >>> result.success, result.certificate, round(result.min_eigenvalue, 6)
        (True, 'minimum', 2.0)
    """
    settings = method_of(method) if bounds is None else method_within(method_of(method))
    limits = limits_of(max_nfev=max_nfev, max_hvp=max_hvp, time_limit=time_limit)
    check_numbers(
        gtol=gtol,
        ftol=ftol,
        max_iter=max_iter,
        check_matvecs=check_matvecs,
        miss_probability=miss_probability,
    )
    primals, back = started(x0)
    box, primals, outside = bounded(bounds, primals)
    with Interrupt() as interrupt:
        # The objective's first point is alone in holding the operator, so that it can be let go of.
        objective = Objective(_differentiated(func, primals, data, options, box), limits, interrupt, box)
        settings = chosen(settings, objective, preconditioned=preconditioner is not None)
        random = _random(objective.start.x, generator)
        unravel = partial(_unraveled, objective, back)
        _check_preconditioner(preconditioner, settings)
        precondition = preconditioning(preconditioner, objective, unravel)
        tolerances = Tolerances(_GTOL[objective.eps < 1e-12] if gtol is None else gtol, ftol)
        least = (
            least_curvature if box is None else partial(least_curvature_within, box=box, gtol=tolerances.gtol)
        )
        run = Run(
            objective=objective,
            method=built(
                settings, objective, precondition, random, preconditioned=preconditioner is not None
            ),
            tolerances=tolerances,
            max_iter=max_iter,
            curvature_at=partial(
                least, random=random, max_matvecs=check_matvecs, probability=miss_probability
            ),
            callback=None if callback is None else partial(_told, callback, unravel),
            interrupt=interrupt,
        )
        ending = run.to_end()
    result = _result(run, ending, unravel)
    if box is not None:
        result.update(active=_integers(unravel(box.active(run.point.x))), start_projected=outside)
    return result


def _differentiated(
    func: Callable[..., Any],
    primals: Any,
    data: Iterable[Any] | None,
    options: dict[str, Any],
    box: Box | None,
) -> HessianOperator:
    """∇²f(x0), verified, unless there is nothing to verify: f, its gradient or a product is not finite."""
    try:
        if box is not None:
            return proven_inside(func, primals, data, options, box)
        return HessianOperator(func, primals, data, **options)
    except DerivativeError:
        unverified = HessianOperator(func, primals, data, **{**options, "verify": False})
        if not bool(unverified.value.isfinite() & unverified.flat_gradient.isfinite().all()):
            return unverified
        if bool((unverified @ torch.ones_like(unverified.flat_gradient)).isfinite().all()):
            raise
        return unverified


def _check_preconditioner(preconditioner: Any, settings: Method) -> None:
    if preconditioner is not None and isinstance(settings, TrustExact):
        raise ValueError(
            "preconditioner is of no use to method='trust-exact', which solves with the Hessian itself; "
            "leave it out, or choose another method"
        )


def _random(like: Tensor, generator: torch.Generator | int | None) -> Callable[[int], Tensor]:
    if not isinstance(generator, torch.Generator):
        generator = torch.Generator().manual_seed(0 if generator is None else generator)

    def random(columns: int) -> Tensor:
        shape = columns, like.shape[0]
        rows = torch.randn(shape, generator=generator, dtype=like.dtype, device=generator.device)
        return rows.to(like.device).mT

    return random


def _unraveled(objective: Objective, back: Callable[[Any], Any], x: Tensor) -> Any:
    """What x0 is, from a vector (n,)."""
    return back(objective.space.unflatten(x))


def _told(
    callback: Callable[[OptimizeResult], object],
    back: Callable[[Tensor], Any],
    point: Point,
    row: Iterate,
) -> bool:
    """What the callback answers; StopIteration is SciPy's way of saying that it is enough."""
    x = back(point.x.clone())  # whatever is done with it
    told = OptimizeResult(
        x=x, fun=row.fun, gradient_norm=row.gradient_norm, nit=row.nit, nfev=row.nfev, nhev=row.nhev
    )
    try:
        return bool(callback(told))
    except StopIteration:
        return True


def _integers(mask: Any) -> Any:
    """−1, 0 and 1 as integers, also where x0 has several dtypes."""
    return tree_map(lambda leaf: leaf.long() if isinstance(leaf, Tensor) else leaf, mask)


def _result(run: Run, ending: Ending, back: Callable[[Tensor], Any]) -> OptimizeResult:
    curvature, objective, point = run.curvature, run.objective, run.point
    saddle = run.certificate == "saddle"
    return OptimizeResult(
        x=back(point.x),
        fun=point.value,
        jac=back(point.gradient[:, 0]),
        nit=run.nit,
        nfev=objective.num_points,
        njev=objective.num_points,
        nhev=objective.num_matvecs,
        success=ending.success,
        status=ending,
        message=ending.message,
        gradient_norm=point.gradient_norm,
        certificate=run.certificate,
        min_eigenvalue=math.nan if curvature is None else curvature.value,
        min_eigenvalue_bound=-math.inf if curvature is None else curvature.bound,
        direction=back(curvature.direction[:, 0]) if saddle and curvature is not None else None,
        history=run.history,
        method=run.method.settings,
    )
