"""`effective_dimension`: how many directions a damping leaves free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from hvplib.estimate.averaged import Callback, averaged
from hvplib.estimate.exchangeable import IndefiniteError
from hvplib.estimate.found import Found, of_mean, result_of
from hvplib.estimate.function_trace import LanczosQuadrature, trace_of_function
from hvplib.estimate.goal import Goal
from hvplib.estimate.hutchinson import forms
from hvplib.estimate.methods import NORM, Exact, Hutchinson, Method, method_of
from hvplib.estimate.probes import Probes, generator_of
from hvplib.estimate.products import Products
from hvplib.estimate.spectral_function import SpectralFunction, SpectrumError
from hvplib.krylov.cg import cg
from hvplib.operators.base import Operator
from hvplib.operators.coerce import as_operator, as_symmetric
from hvplib.results.common import settled
from hvplib.results.estimate import Estimate
from hvplib.results.status import Status

__all__ = ["effective_dimension"]

# Random vectors where no tolerance is given, and products for quadratures.
_SAMPLES, _PRODUCTS = 32, 1000
# What rounding may do to xᵀA x, in eps ‖x‖ ‖A x‖; and to eigenvalues, in eps ‖A‖_F.
_NOISE = 32.0


def effective_dimension(
    A: Any,
    damping: float,
    *,
    method: Method | LanczosQuadrature | str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    max_matvecs: int = 10_000,
    solver_rtol: float = 1e-4,
    preconditioner: Any = None,
    generator: torch.Generator | int | None = None,
    callback: Callback | None = None,
    throw: bool = True,
) -> Estimate:
    """d(δ) = tr(A (A + δ I)⁻¹) = Σ λ_i / (λ_i + δ) of a positive semidefinite A; with an interval.

    Each random z = ±1 gives n − δ zᵀ(A + δ I)⁻¹z. Conjugate gradients solve for x with a residual r that is
    recomputed, and zᵀ(A + δ I)⁻¹z = zᵀx + xᵀr + rᵀ(A + δ I)⁻¹r, whose last term lies between 0 and ‖r‖² / δ:
    what the solve leaves is at most ‖r‖² / 2 either way, and is part of the interval.

    With "slq" each zᵀ A (A + δ I)⁻¹ z comes of a Lanczos process, whose Gauss and Gauss-Radau rules are
    bounds for this function, as for `trace_of_function`: no solve is made.

    Args:
        A: Symmetric positive semidefinite (n, n): an operator, tensor, array, or SciPy's sparse matrix or
            LinearOperator.
        damping: δ > 0.
        method: "hutchinson" (`Hutchinson`), "slq" (`LanczosQuadrature`), or "exact" (`Exact`): all
            eigenvalues, from n products. None takes the last where n ≤ 500 and that is within `max_matvecs`,
            else the first.
        rtol: Relative tolerance.
        atol: Absolute tolerance; the larger of both counts. Without either, 32 random vectors are used,
            and by "slq" 1000 products.
        confidence: Of the interval.
        max_matvecs: Most products with A, those of the solves included.
        solver_rtol: The solves end with ‖r‖ ≤ solver_rtol ‖z‖.
        preconditioner: Approximation of (A + δ I)⁻¹ for the solves, as for `solve`: an operator, a matrix, or
            a function of blocks.
        generator: Of the random vectors, or a seed; without one, equal calls give equal bits.
        callback: Is told an `EstimateProgress` after each block; a true return value ends it.
        throw: Raise `ConvergenceError` if the tolerance is not reached, a product is not finite, or A turns
            out to be indefinite.

    Returns:
        An `Estimate`.

    Raises:
        ConvergenceError: See `throw`; its `.result` holds what there is.
        ValueError: The damping is not positive, another argument is out of range, or A is not symmetric.

    Source: MacKay (1992), 10.1162/neco.1992.4.3.415, where it is the number of well-determined parameters.

    Example:
        >>> import torch
        >>> from hvplib import Diagonal, effective_dimension
        >>> A = Diagonal(1 / torch.arange(1, 2001).double() ** 2)
        >>> result = effective_dimension(A, 1e-3)
        >>> truth = float((A.diagonal / (A.diagonal + 1e-3)).sum())
        >>> result.interval[0] <= truth <= result.interval[1]
        True
    """
    if not 0 < damping < float("inf"):
        raise ValueError(f"damping must be positive and finite, got {damping!r}")
    if not 0 < solver_rtol < 1:
        raise ValueError(f"solver_rtol must lie between 0 and 1, got {solver_rtol!r}")
    goal = Goal(rtol, atol, confidence)
    operator = as_symmetric(A)
    if method == "slq" or isinstance(method, LanczosQuadrature):
        if preconditioner is not None:
            raise ValueError(
                'method "slq" makes no solves, so it has no use for preconditioner; leave one out'
            )
        limit = max_matvecs if goal.asks else min(max_matvecs, _PRODUCTS)
        settings = method if isinstance(method, LanczosQuadrature) else LanczosQuadrature()
        return settled(
            _by_quadrature(operator, damping, settings, goal, limit, generator, callback), throw=throw
        )
    n = operator.shape[0]
    used, reason = _chosen(n, method, max_matvecs)
    products = Products(operator, max_matvecs)
    try:
        if isinstance(used, Exact):
            found = _exact(products, damping, used.block_size, goal)
        else:
            assert isinstance(used, Hutchinson)
            solves = _Solves(products, damping, solver_rtol, _function(preconditioner))
            probes = Probes.of(operator, generator=generator_of(generator))
            found = solves.mean(probes, goal, used.block_size, callback)
    except IndefiniteError:
        found = Found.failed(Status.INDEFINITE, goal)
    return settled(result_of(found, goal, products.counts, used, reason), throw=throw)


def _by_quadrature(
    operator: Operator,
    damping: float,
    method: LanczosQuadrature,
    goal: Goal,
    limit: int,
    generator: torch.Generator | int | None,
    callback: Callback | None,
) -> Estimate:
    """The trace of λ / (λ + δ), which curves downwards as the logarithm does."""
    function = SpectralFunction(
        "x / (x + damping)", lambda values: values / (values + damping), (-1, 1), least=0.0, closed=True
    )
    try:
        return trace_of_function(
            operator,
            function,
            method=method,
            rtol=goal.rtol,
            atol=goal.atol,
            confidence=goal.confidence,
            interval=(0.0, None),
            max_matvecs=limit,
            generator=generator,
            callback=callback,
            throw=False,
        )
    except SpectrumError as error:
        failed = Found.failed(Status.INDEFINITE, goal)
        return result_of(replace(failed, note=str(error)), goal, {}, method, "as given")


def _chosen(n: int, method: Method | str | None, limit: int) -> tuple[Method, str]:
    if method is None:
        exact = n <= min(500, limit)
        return (Exact(), f"{n} products give the matrix") if exact else (Hutchinson(), "A is large")
    used = method_of(method, NORM)
    if isinstance(used, Exact) and limit < n:
        raise ValueError(f"max_matvecs must be at least {n} for {used}, got {limit}")
    if isinstance(used, Hutchinson) and used.distribution != "rademacher":
        raise ValueError(f'distribution must be "rademacher" here, got {used.distribution!r}')
    return used, "as given"


def _function(preconditioner: Any) -> Callable[[Tensor], Tensor] | None:
    if preconditioner is None:
        return None
    if callable(preconditioner) and not isinstance(preconditioner, LinearOperator):
        function: Callable[[Tensor], Tensor] = preconditioner
        return function
    return as_operator(preconditioner, "preconditioner")._product


def _exact(products: Products, damping: float, block_size: int, goal: Goal) -> Found:
    products.counts["unit vectors"] += products.operator.shape[0]
    dense = products.operator.to_dense(chunk_size=block_size).double().cpu()
    if not bool(dense.isfinite().all()):
        return Found.failed(Status.NON_FINITE, goal)
    values = torch.linalg.eigvalsh((dense + dense.mT) / 2)
    noise = _NOISE * torch.finfo(products.operator.torch_dtype).eps * float(dense.norm())
    if float(values[0]) < -noise:
        raise IndefiniteError
    values = values.clamp(min=0)
    # The eigenvalues are right to the noise in all, and the derivative of λ / (λ + δ) is δ / (λ + δ)².
    bound = noise * float((damping / (values + damping).square()).max())
    value = (values / (values + damping)).sum()
    bound += _NOISE * torch.finfo(torch.float64).eps * float(value)
    return Found.exact(value, bound, goal, products.total)


class _Solves:
    """Samples of n − δ zᵀ(A + δ I)⁻¹z, and what the solves leave of them."""

    def __init__(
        self,
        products: Products,
        damping: float,
        rtol: float,
        precondition: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self._products, self._damping, self._rtol = products, damping, rtol
        self._precondition = precondition
        self._dearest = 2
        self._left = self._count = 0.0

    def mean(self, probes: Probes, goal: Goal, block_size: int, callback: Callback | None) -> Found:
        def draw(count: int) -> Tensor:
            affordable = self._products.left // self._dearest
            return self.samples(probes.block(min(count, affordable))) if affordable else torch.zeros(0)

        most = self._products.limit if goal.asks else _SAMPLES
        mean = averaged(
            draw,
            goal,
            max_samples=most,
            block_size=block_size,
            spent=lambda: self._products.total,
            bound=lambda: self._left / max(self._count, 1),
            callback=callback,
        )
        if not goal.asks and mean.samples.count < most and mean.status is Status.ESTIMATED:
            return of_mean(
                mean, note=f"the products allowed were enough for {mean.samples.count} vectors only"
            )
        return of_mean(mean)

    def samples(self, Z: Tensor) -> Tensor:
        """One for each column (k,), the middle of what is possible."""
        products, damping = self._products, self._damping

        def matmat(X: Tensor) -> Tensor:
            return torch.add(products(X, "solves"), X, alpha=damping)

        limit = max(products.left // Z.shape[1] - 1, 1)
        before = products.total
        solved = cg(matmat, Z, precondition=self._precondition, rtol=self._rtol, max_iter=limit)
        X = solved.x
        AX = products(X, "confirmation")
        self._dearest = max(self._dearest, -(-(products.total - before) // Z.shape[1]))
        R = Z - torch.add(AX, X, alpha=damping)
        curvature, size = forms(X, AX), (X.double().norm(dim=0) * AX.double().norm(dim=0)).cpu()
        noise = _NOISE * torch.finfo(X.dtype).eps * size
        met = solved.curvature is not None and bool((solved.curvature < 0).any())
        if met or bool((curvature < -noise).any()):
            raise IndefiniteError
        half = forms(R, R) / 2
        self._left += float(half.sum() + damping * noise.sum())
        self._count += Z.shape[1]
        return forms(Z, Z) - damping * (forms(Z, X) + forms(X, R)) - half
