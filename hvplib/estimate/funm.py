"""`funm_multiply`: a function of a symmetric matrix, applied to vectors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hvplib.estimate.arguments import check_columns, check_time, check_tolerances, memory
from hvplib.estimate.function_error import FunctionError, Interval, Projected
from hvplib.estimate.iterate import Assessment, Limits, iterate
from hvplib.estimate.spectral_function import SpectralFunction, interval_of, spectral_function
from hvplib.interrupt import Interrupt
from hvplib.krylov.columns import zero_block
from hvplib.krylov.lanczos_columns import LanczosColumns
from hvplib.krylov.lanczos_process import coefficients
from hvplib.operators.base import Operator
from hvplib.operators.coerce import as_symmetric
from hvplib.operators.mirror import taken
from hvplib.results.common import settled
from hvplib.results.functions import FunctionProduct
from hvplib.results.status import Progress, Status

__all__ = ["funm_multiply"]

# Without an interval the error is an estimate, and told with this factor.
_SAFETY = 2.0
# Steps that are repeated may differ by so many roundings.
_ROUNDINGS = 1e3


def funm_multiply(
    A: Any,
    f: str | Callable[[Tensor], Any],
    b: Any,
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    interval: tuple[float | None, float | None] | None = None,
    derivative_signs: tuple[int, int] | None = None,
    reorthogonalize: bool | None = None,
    max_iter: int | None = None,
    callback: Callable[[Progress], object] | None = None,
    time_limit: float | None = None,
    throw: bool = True,
) -> FunctionProduct:
    """x ≈ f(A) b for a symmetric A, by Lanczos: x = ‖b‖ Q f(T) e₁ with A Q = Q T + β q eᵀ.

    It ends at ‖f(A) b − x‖ ≤ max(rtol ‖x‖, atol), where the left side is bounded by

        ‖b‖ β max |h(t)|,    h(t) = Σ_i S_mi S_1i (f(t) − f(θ_i)) / (t − θ_i),

    θ and S being the eigenpairs of T, the maximum taken over an interval that holds the spectrum, and an
    allowance for rounding added. For "exp", "log", "sqrt", "inv_sqrt", "inverse" (of a positive definite A)
    and functions with `derivative_signs` the maximum is at one end of the interval, and the bound certain if
    that end is given: the upper one for "exp", the lower one for the others. Otherwise it is an estimate,
    twice the largest value found with the Ritz values in place of the spectrum, and `certain` is False.

    Args:
        A: Symmetric (n, n): an operator, tensor, array, or SciPy's sparse matrix or LinearOperator.
        f: "exp", "log", "sqrt", "inv_sqrt", "inverse", "sign", or a function of a float64 tensor of
            eigenvalues.
        b: An array or tensor (n,) or (n, k), or a pytree like the operator's point, or with a leading k on
            each leaf. Each column has a Krylov space of its own; products are made with all at once.
        rtol: Relative tolerance; √ε of A's dtype by default.
        atol: Absolute tolerance.
        interval: (lower, upper) with all eigenvalues between; None for an end that is not known. An A that is
            declared positive semidefinite has 0 for a lower end.
        derivative_signs: Of a function of your own, if all its even derivatives from the second on have one
            sign, and all its odd ones have one: (1, -1) for 1/x, (-1, 1) for log, (1, 1) for exp.
        reorthogonalize: True keeps the basis, one vector a step, and every new vector orthogonal to it. False
            keeps three vectors and makes every product a second time to assemble x; products must
            repeat themselves to the bit, copies of converged Ritz values cost more steps, and the bound
            holds in practice and not for certain. None keeps the basis if half of the free memory holds it.
        max_iter: Most steps; by default the smaller of n and 1000, and ten times that without a basis.
        callback: Is told a `Progress` now and then, with errors in place of residual norms; returning True
            ends the iteration.
        time_limit: Seconds.
        throw: Raise `ConvergenceError` where a column has not converged. Ctrl-C, the time limit and the
            callback never raise: they return x as it is, with its larger error.

    Returns:
        `FunctionProduct`. f(A) 0 = 0, without a product.

    Raises:
        ConvergenceError: See `throw`.
        ValueError: f is not defined at a Ritz value, the interval does not hold them all, or an argument is
            out of range. A Ritz value shows that the spectrum reaches so far, not where it ends: that f is
            defined on all of it follows only from an interval.
        MemoryError: `reorthogonalize=True`, and the basis does not fit.

    Source: Druskin, Knizhnerman (1989), 10.1016/S0041-5553(89)80020-5; for the error Saad (1992),
    10.1137/0729014, and Frommer, Güttel, Schweitzer (2014), 10.1137/13093491X; for what holds without
    orthogonality Druskin, Knizhnerman (1991), and Musco, Musco, Sidford (2018), 10.1137/1.9781611975031.105.

    Example:
        >>> import torch
        >>> from hvplib import Diagonal, funm_multiply
        >>> A = Diagonal(torch.linspace(1, 4, 100, dtype=torch.float64))
        >>> result = funm_multiply(A, "inv_sqrt", torch.ones(100, dtype=torch.float64), interval=(1, 4))
        >>> result.x[-1], result.num_matvecs < 30, bool(result.certain)
        (tensor(0.5000, dtype=torch.float64), True, True)
    """
    started = time.monotonic()
    operator = as_symmetric(A)
    function = spectral_function(f, derivative_signs)
    ends = interval_of(interval, positive_semidefinite=operator.positive_semidefinite)
    B, back = taken(operator, b, "b")
    check_columns(B)
    rtol = check_tolerances(rtol, atol, B.dtype)
    steps, keep = memory(operator, B, max_iter, reorthogonalize)
    limit = check_time(time_limit) * (1.0 if keep else 0.5)  # the second pass takes as long as the first
    run = _Run(operator, B, function, ends, (rtol, atol), keep)
    with Interrupt() as interrupt:
        limits = Limits(steps, callback, started + limit, interrupt)
        statuses, num_iter = iterate(run.lanczos, run.assess, limits)
        x = run.assembled(statuses)
    result = run.result(back(x), statuses, num_iter)
    return settled(result, throw=throw)


class _Run:
    """f(A) B in the making."""

    def __init__(
        self,
        operator: Operator,
        B: Tensor,
        f: SpectralFunction,
        interval: Interval,
        tolerances: tuple[float, float],
        keep: int,
    ) -> None:
        self._operator, self._B, self._f, self._interval = operator, B, f, interval
        self._rtol, self._atol = tolerances
        self._keep = keep
        self._eps = torch.finfo(B.dtype).eps
        self.lanczos = self._begin()
        self._projected: dict[int, Projected] = {}
        self._errors = [FunctionError(0.0, 0.0, True) for _ in self.lanczos.columns]
        self._second = 0
        self._differs = 0.0

    def _begin(self) -> LanczosColumns:
        return LanczosColumns(self._operator._product, self._B, keep=self._keep, size=self._operator.shape[0])

    def assess(self, j: int) -> Assessment:
        """What is known of column j now."""
        projected = Projected(self.lanczos.columns[j], self._f, self._eps, self._interval)
        error = projected.error()
        certain = error.certain and bool(self._keep)
        truncation = error.truncation * (1.0 if certain else _SAFETY)
        self._projected[j] = projected
        self._errors[j] = FunctionError(truncation, error.rounding, certain)
        return Assessment(truncation, error.rounding, self._tolerance(j))

    def _tolerance(self, j: int) -> float:
        projected = self._projected.get(j)
        return max(self._rtol * (0.0 if projected is None else projected.length), self._atol)

    def assembled(self, statuses: list[Status]) -> Tensor:
        """x (n, k)."""
        for j, status in enumerate(statuses):
            if status is Status.NON_FINITE:
                self._projected.pop(j, None)
                self._errors[j] = FunctionError(math.nan, math.nan, False)
        if not self._keep:
            return self._second_pass()
        X = zero_block(self._B)
        for j, projected in self._projected.items():
            X[:, j] = self.lanczos.combine(j, projected.coordinates.unsqueeze(1))[:, 0]
        return X

    def _second_pass(self) -> Tensor:
        """The same steps once more, each vector added to x as it comes."""
        X, first = zero_block(self._B), self.lanczos.columns
        weights = {j: projected.coordinates for j, projected in self._projected.items()}
        again = self._begin()
        last = max((len(w) for w in weights.values()), default=0)
        for step in range(last):
            again.advance()
            row = torch.tensor(
                [float(weights[j][step]) if step < len(weights.get(j, ())) else 0.0 for j in again.open],
                dtype=torch.float64,
            )
            (scale,) = coefficients([row], X)
            X[:, again.open] += again.vectors * scale
            if step < last - 1:
                again.multiply()
                # Blocks of the same columns as in the first pass: the same bits.
                again.close([j for j in again.open if first[j].steps == step + 1])
            if not again.open:
                break
        self._second = again.num_matvecs
        for j in weights:
            pairs = zip(again.columns[j].betas, first[j].betas, strict=False)
            differs = max((abs(a - b) for a, b in pairs), default=0.0)
            if differs > _ROUNDINGS * self._eps * first[j].size:
                self._differs = max(self._differs, differs)
                self._errors[j] = FunctionError(math.inf, math.inf, False)
        return X

    def result(self, x: Any, statuses: list[Status], num_iter: int) -> FunctionProduct:
        """All of it."""
        errors = torch.tensor(self._errors, dtype=torch.float64).reshape(-1, 3)
        for j, error in enumerate(self._errors):
            if math.isinf(error.truncation):
                statuses[j] = Status.STAGNATED
        ends = [
            self._projected[j].values[[0, -1]] if j in self._projected else torch.full((2,), math.nan)
            for j in range(len(statuses))
        ]
        note = (
            ""
            if not self._differs
            else (
                f"the second pass differs from the first by {self._differs:.2g}: the products do not repeat "
                "themselves, and x is not to be trusted; make them deterministic, or reorthogonalize=True"
            )
        )
        return FunctionProduct(
            x=x,
            errors=errors[:, 0] + errors[:, 1],
            roundings=errors[:, 1],
            certain=torch.tensor([error.certain for error in self._errors]),
            tolerances=torch.tensor([self._tolerance(j) for j in range(len(statuses))], dtype=torch.float64),
            statuses=tuple(statuses),
            ritz_values=torch.stack([end.double() for end in ends]),
            num_iter=num_iter,
            matvecs={"iteration": self.lanczos.num_matvecs}
            | ({} if self._keep else {"second pass": self._second}),
            f=self._f.name,
            method="Lanczos with full reorthogonalisation" if self._keep else "Lanczos, two passes",
            note=note,
        )
