"""`quadratic_form`: bᵀ f(A) b, between bounds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hvplib.estimate.arguments import check_columns, check_time, check_tolerances, memory
from hvplib.estimate.form_error import FormBounds, form_bounds
from hvplib.estimate.function_error import Interval
from hvplib.estimate.iterate import Assessment, Limits, iterate
from hvplib.estimate.spectral_function import SpectralFunction, interval_of, spectral_function
from hvplib.interrupt import Interrupt
from hvplib.krylov.lanczos_columns import LanczosColumns
from hvplib.operators.coerce import as_symmetric
from hvplib.operators.mirror import taken
from hvplib.results.common import settled
from hvplib.results.functions import QuadraticForm
from hvplib.results.status import Progress, Status

__all__ = ["quadratic_form"]


def quadratic_form(
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
) -> QuadraticForm:
    """lower ≤ bᵀ f(A) b ≤ upper for a symmetric A, by Gauss and Gauss-Radau rules.

    It ends at (upper − lower)/2 ≤ max(rtol |value|, atol), rounding included. bᵀ f(A) b is ∫ f dμ, of which m
    steps of Lanczos make a Gauss rule that is exact for polynomials up to the degree 2m − 1: the error is the
    square of that of f(A) b.

    For "exp", "log", "sqrt", "inv_sqrt", "inverse" (of a positive definite A) and functions with
    `derivative_signs` the Gauss rule is a bound on one side, and a Gauss-Radau rule with its node at an end
    of the spectrum one on the other: the upper end for "exp", the lower one for the others. That side is
    certain if `interval` gives the end, and else an estimate with the Ritz values in its place. For other
    functions both sides are estimates.

    Args:
        A: Symmetric (n, n): an operator, tensor, array, or SciPy's sparse matrix or LinearOperator.
        f: A name or a function of a float64 tensor of eigenvalues, as for `funm_multiply`.
        b: An array or tensor (n,) or (n, k), or a pytree like the operator's point, or with a leading k on
            each leaf.
        rtol: Relative tolerance; √ε of A's dtype by default.
        atol: Absolute tolerance.
        interval: (lower, upper) with all eigenvalues between; None for an end that is not known. An A that is
            declared positive semidefinite has 0 for a lower end.
        derivative_signs: Of a function of your own: the signs of its even and of its odd derivatives.
        reorthogonalize: As for `funm_multiply`, but there is no second pass: without a basis a product is
            made once.
        max_iter: Most steps; as for `funm_multiply`.
        callback: Is told a `Progress` now and then; returning True ends the iteration.
        time_limit: Seconds.
        throw: Raise `ConvergenceError` where a column has not converged; see `funm_multiply`.

    Returns:
        `QuadraticForm`.

    Raises:
        As `funm_multiply`.

    Source: Golub, Meurant (2010), Matrices, moments and quadrature with applications, 10.1515/9781400833887.

    Example:
        >>> import torch
        >>> from hvplib import Diagonal, quadratic_form
        >>> A = Diagonal(torch.linspace(1, 4, 100, dtype=torch.float64))
        >>> b = torch.ones(100, dtype=torch.float64)
        >>> found = quadratic_form(A, "inverse", b, interval=(1, None), rtol=1e-6)
        >>> bool(found.lower <= (1 / A.diagonal).sum() <= found.upper), found.certain.tolist()
        (True, [True, True])
    """
    started = time.monotonic()
    operator = as_symmetric(A)
    function = spectral_function(f, derivative_signs)
    ends = interval_of(interval, positive_semidefinite=operator.positive_semidefinite)
    B, back = taken(operator, b, "b")
    check_columns(B)
    rtol = check_tolerances(rtol, atol, B.dtype)
    steps, keep = memory(operator, B, max_iter, reorthogonalize)
    run = _Run(
        LanczosColumns(operator._product, B, keep=keep, size=operator.shape[0]),
        function,
        ends,
        rtol,
        atol,
        torch.finfo(B.dtype).eps,
    )
    with Interrupt() as interrupt:
        limits = Limits(steps, callback, started + check_time(time_limit), interrupt)
        statuses, num_iter = iterate(run.lanczos, run.assess, limits)
    is_vector = B.shape[1] == 1 and _is_vector(back(B))
    result = run.result(statuses, num_iter, is_vector=is_vector, certain=bool(keep))
    return settled(result, throw=throw)


def _is_vector(like: Any) -> bool:
    return not hasattr(like, "ndim") or like.ndim == 1


class _Run:
    """bᵀ f(A) b of some columns in the making."""

    def __init__(
        self,
        lanczos: LanczosColumns,
        f: SpectralFunction,
        interval: Interval,
        rtol: float,
        atol: float,
        eps: float,
    ) -> None:
        self.lanczos = lanczos
        self._f, self._interval, self._rtol, self._atol, self._eps = f, interval, rtol, atol, eps
        self._found: dict[int, FormBounds] = {}

    def assess(self, j: int) -> Assessment:
        """What is known of column j now."""
        found = form_bounds(self.lanczos.columns[j], self._f, self._eps, self._interval)
        self._found[j] = found
        return Assessment((found.upper - found.lower) / 2, found.rounding, self._tolerance(_middle(found)))

    def _tolerance(self, value: float) -> float:
        return max(self._rtol * abs(value), self._atol)

    def result(
        self, statuses: list[Status], num_iter: int, *, is_vector: bool, certain: bool
    ) -> QuadraticForm:
        """All of it."""
        nothing = torch.zeros(0, dtype=torch.float64)
        unknown = FormBounds(math.nan, math.nan, math.nan, (False, False), nothing, nothing, None)
        zero = FormBounds(0.0, 0.0, 0.0, (True, True), nothing, nothing, None)
        rows = []
        for j, status in enumerate(statuses):
            failed = status is Status.NON_FINITE
            rows.append(unknown if failed else self._found.get(j, zero))
        table = torch.tensor(
            [(_middle(row), row.lower - row.rounding, row.upper + row.rounding, row.value) for row in rows],
            dtype=torch.float64,
        )
        sure = torch.tensor([row.certain for row in rows]) & certain
        values, lower, upper, gauss = (column[0] if is_vector else column for column in table.unbind(1))
        pad = torch.nn.utils.rnn.pad_sequence
        return QuadraticForm(
            values=values,
            lower=lower,
            upper=upper,
            certain=sure[0] if is_vector else sure,
            gauss=gauss,
            tolerances=torch.tensor([self._tolerance(_middle(row)) for row in rows], dtype=torch.float64),
            statuses=tuple(statuses),
            nodes=pad([row.nodes for row in rows], batch_first=True, padding_value=math.nan),
            weights=pad([row.weights for row in rows], batch_first=True),
            num_iter=num_iter,
            num_matvecs=self.lanczos.num_matvecs,
            f=self._f.name,
        )


def _middle(found: FormBounds) -> float:
    return (found.lower + found.upper) / 2
