"""`trace_of_function` and `logdet`: tr f(A) by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from hvplib.estimate.arguments import check_time
from hvplib.estimate.averaged import Averaged, Callback, averaged
from hvplib.estimate.form_error import FormBounds, form_bounds
from hvplib.estimate.found import Found, result_of
from hvplib.estimate.function_error import Interval, check_interval
from hvplib.estimate.goal import Goal
from hvplib.estimate.iterate import Assessment, Limits, iterate
from hvplib.estimate.probed import Plan, planned
from hvplib.estimate.probes import Distribution, Probes
from hvplib.estimate.spectral_function import SpectralFunction, interval_of, spectral_function
from hvplib.interrupt import Interrupt
from hvplib.krylov.lanczos_columns import LanczosColumns
from hvplib.operators.base import Operator
from hvplib.operators.coerce import as_symmetric
from hvplib.results.common import settled
from hvplib.results.estimate import Estimate
from hvplib.results.status import Status

__all__ = ["LanczosQuadrature", "logdet", "trace_of_function"]

# Products where no limit is given, and the most with a tolerance.
_SPENT, _ALLOWED = 1000, 20_000
# Up to this size the dense matrix is small and LAPACK fast.
_STORABLE = 2000
# Of a tolerance, so much is left to the quadrature; without one, so much of each sample.
_PART, _FINE = 0.1, 1e-4
_ROUNDINGS = 16.0


@dataclass(frozen=True)
class LanczosQuadrature:
    """Samples zᵀ f(A) z of random z, each by Lanczos and Gauss rules.

    Attributes:
        krylov_dim: Most steps for a sample. It ends before, when its own bounds are narrow enough: a tenth
            of the tolerance, or 1e-4 of the sample without one.
        distribution: Of the entries of z: "rademacher", "normal" or "sphere".
        reorthogonalize: True keeps the basis of each sample, False three vectors; None keeps it if half of
            the free memory holds that of one sample.
        block_size: Samples at a time, as many as fit by default, up to 16.

    Source: Ubaru, Chen, Saad (2017), Fast estimation of tr(f(A)) via stochastic Lanczos quadrature,
    10.1137/16M1104974.
    """

    krylov_dim: int = 100
    distribution: Distribution = "rademacher"
    reorthogonalize: bool | None = None
    block_size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.krylov_dim, int) or isinstance(self.krylov_dim, bool) or self.krylov_dim < 1:
            raise ValueError(f"krylov_dim must be a positive integer, got {self.krylov_dim!r}")


def trace_of_function(
    A: Any,
    f: str | Callable[[Tensor], Any],
    *,
    method: LanczosQuadrature | Literal["slq", "exact"] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    interval: tuple[float | None, float | None] | None = None,
    derivative_signs: tuple[int, int] | None = None,
    max_matvecs: int | None = None,
    generator: torch.Generator | int | None = None,
    callback: Callback | None = None,
    time_limit: float | None = None,
    throw: bool = True,
) -> Estimate:
    """tr f(A) = Σ_i f(λ_i) of a symmetric A, as the mean of zᵀ f(A) z over random z with E[z zᵀ] = I.

    Two errors are told apart. That of chance is in `stderr`; that of the quadrature, with rounding, is in
    `bound`: the mean of half the widths between the Gauss rule and the Gauss-Radau rule of each sample, which
    are bounds where `quadratic_form` says so, and estimates else. `interval` holds both.

    Without a tolerance `max_matvecs` products are spent. With one it ends when half of the interval's
    length is at most max(rtol |estimate|, atol).

    With f of your own this is the effective dimension Σ λ/(λ + δ), f = lambda x: x / (x + delta), or the p-th
    power of a Schatten norm, f = lambda x: x.abs() ** p.

    Args:
        A: Symmetric (n, n): an operator, tensor, array, or SciPy's sparse matrix or LinearOperator.
        f: "exp", "log", "sqrt", "inv_sqrt", "inverse", "sign", or a function of a float64 tensor of
            eigenvalues.
        method: "slq" (`LanczosQuadrature`), or "exact", all eigenvalues from n products; None takes that
            where n is at most `max_matvecs` and 2000.
        rtol: Relative tolerance; see above.
        atol: Absolute tolerance; the larger of both counts.
        confidence: Of the interval: in this part of all cases it holds the truth.
        interval: (lower, upper) with all eigenvalues between; None for an end that is not known. An A that is
            declared positive semidefinite has 0 for a lower end.
        derivative_signs: As for `funm_multiply`.
        max_matvecs: Most products; 1000 if None, and 20 000 with a tolerance.
        generator: Of the random vectors, or a seed; without one, equal calls give equal bits.
        callback: Is told an `EstimateProgress` after each block; a true return value ends it.
        time_limit: Seconds; looked at after each block.
        throw: Raise `ConvergenceError` if the tolerance is not reached or a product is not finite. Ctrl-C,
            the time limit and the callback never raise: the result is the best so far.

    Returns:
        An `Estimate`.

    Raises:
        ConvergenceError: See `throw`.
        ValueError: f is not defined at a Ritz value, which the message names, the interval does not hold them
            all, or an argument is out of range.

    Source: Ubaru, Chen, Saad (2017), 10.1137/16M1104974; Bai, Fahey, Golub (1996),
    10.1016/0377-0427(96)00018-0.

    Example:
        >>> import torch
        >>> from hvplib import Diagonal, trace_of_function
        >>> A = Diagonal(torch.linspace(1, 2, 5000, dtype=torch.float64))
        >>> found = trace_of_function(A, "inverse", interval=(1, 2), rtol=0.01)
        >>> low, high = found.interval
        >>> low <= float((1 / A.diagonal).sum()) <= high
        True
    """
    started = time.monotonic()
    goal = Goal(rtol, atol, confidence)
    operator = as_symmetric(A)
    function = spectral_function(f, derivative_signs)
    ends = interval_of(interval, positive_semidefinite=operator.positive_semidefinite)
    limit = (_ALLOWED if goal.asks else _SPENT) if max_matvecs is None else max_matvecs
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(f"max_matvecs must be a positive integer or None, got {max_matvecs!r}")
    deadline = started + check_time(time_limit)
    n = operator.shape[0]
    small = n <= min(limit, _STORABLE)
    if method == "exact" or (method is None and small):
        reason = "as given" if method else f"{n} products give the whole matrix"
        return settled(_exact(operator, function, ends, goal, reason), throw=throw)
    settings = _settings(method)
    samples = _Samples(operator, function, ends, goal, settings, limit, deadline, generator)
    mean = averaged(
        samples.draw,
        goal,
        max_samples=limit,
        block_size=samples.plan.block_size,
        spent=lambda: samples.num_matvecs,
        bound=samples.bound,
        callback=callback,
    )
    reason = "as given" if method else f"n = {n} is too large for the whole matrix"
    return settled(_estimate(mean, samples, goal, settings, reason), throw=throw)


def logdet(A: Any, **options: Any) -> Estimate:
    """log det A = tr log A of a symmetric positive definite A, by stochastic Lanczos quadrature.

    The same as `trace_of_function(A, "log", ...)`, and all that is said there holds, keyword arguments
    included. With a lower end of the spectrum in `interval` the quadrature's error is bounded for certain. An
    A that is seen to be indefinite or singular is refused, with the eigenvalue that was seen; that no vector
    met shows it is no proof that A is positive definite. "exact" takes the eigenvalues of the dense matrix.

    Raises:
        ValueError: A is not positive definite: a Ritz value is not positive.

    Example:
        >>> import torch
        >>> from hvplib import Diagonal, logdet
        >>> A = Diagonal(torch.linspace(1, 2, 3000, dtype=torch.float64))
        >>> found = logdet(A, interval=(1, None), rtol=0.02)
        >>> low, high = found.interval
        >>> low <= float(A.diagonal.log().sum()) <= high
        True
    """
    return trace_of_function(A, "log", **options)


def _settings(method: Any) -> LanczosQuadrature:
    if isinstance(method, LanczosQuadrature):
        return method
    if method in (None, "slq"):
        return LanczosQuadrature()
    raise ValueError(f'method must be "slq", "exact", a LanczosQuadrature or None, got {method!r}')


class _Samples:
    """zᵀ f(A) z of one random z after another."""

    def __init__(
        self,
        operator: Operator,
        f: SpectralFunction,
        interval: Interval,
        goal: Goal,
        settings: LanczosQuadrature,
        limit: int,
        deadline: float,
        generator: torch.Generator | int | None,
    ) -> None:
        self._operator, self._f, self._interval, self._goal = operator, f, interval, goal
        self._probes = Probes.of(operator, generator=generator, distribution=settings.distribution)
        self._eps = torch.finfo(operator.torch_dtype).eps
        self._limit, self._deadline = limit, deadline
        steps = min(settings.krylov_dim, limit)
        self.plan: Plan = planned(
            operator, limit, steps, reorthogonalize=settings.reorthogonalize, block_size=settings.block_size
        )
        self.num_matvecs = 0
        self.late = False
        self._found: dict[int, FormBounds] = {}
        self._count, self._halves = 0, 0.0
        # The fewest steps that a vector has needed, less one: to look earlier is not worth the time.
        self._first_look = 1
        self._certain = True

    @property
    def certain(self) -> bool:
        """Whether all bounds were bounds."""
        return self._certain and bool(self.plan.keep)

    def bound(self) -> float:
        """The error of the mean that is not chance's."""
        return self._halves / self._count if self._count else 0.0

    def draw(self, count: int) -> Tensor:
        """The next samples, as many of them as can be afforded."""
        left = self._limit - self.num_matvecs
        # Few samples end as early as this counts on; what is left over is spent on the next block.
        affordable = min(count, left // self.plan.steps)
        if time.monotonic() >= self._deadline:
            self.late = True
            affordable = 0
        if affordable < 1:
            return torch.zeros(0, dtype=torch.float64)
        lanczos = LanczosColumns(
            self._operator._product,
            self._probes.block(affordable),
            keep=self.plan.keep,
            size=self._operator.shape[0],
        )
        self._found = {}
        limits = Limits(self.plan.steps, None, math.inf, Interrupt())
        iterate(lanczos, lambda j: self._assess(lanczos, j), limits, first=self._first_look)
        self._first_look = max(1, min(column.steps for column in lanczos.columns) - 1)
        self.num_matvecs += lanczos.num_matvecs
        return torch.tensor([self._taken(lanczos, j) for j in range(affordable)], dtype=torch.float64)

    def _assess(self, lanczos: LanczosColumns, j: int) -> Assessment:
        found = form_bounds(lanczos.columns[j], self._f, self._eps, self._interval)
        self._found[j] = found
        value = abs(found.lower + found.upper) / 2
        wanted = _PART * self._goal.tolerance(value) if self._goal.asks else _FINE * value
        return Assessment((found.upper - found.lower) / 2, 0.0, wanted)

    def _taken(self, lanczos: LanczosColumns, j: int) -> float:
        if not lanczos.columns[j].finite:
            return math.nan
        found = self._found[j]
        self._count += 1
        self._halves += (found.upper - found.lower) / 2 + found.rounding
        self._certain = self._certain and all(found.certain)
        return (found.lower + found.upper) / 2


def _estimate(
    mean: Averaged, samples: _Samples, goal: Goal, settings: LanczosQuadrature, reason: str
) -> Estimate:
    count = mean.samples.count
    status = Status.TIME_LIMIT if samples.late and mean.status is not Status.NON_FINITE else mean.status
    notes = ["" if samples.certain else "the quadrature's error is an estimate, no bound"]
    notes += ["one sample tells nothing of its error"] * (count == 1)
    steps = replace(settings, krylov_dim=samples.plan.steps)
    low, high = (
        float(end) if count else side for end, side in zip(mean.interval, (-math.inf, math.inf), strict=True)
    )
    return Estimate(
        value=float(mean.samples.mean) if count else math.nan,
        stderr=float(mean.samples.stderr) if count else math.nan,
        interval=(low, high),
        confidence=goal.confidence,
        error=mean.error if count else math.inf,
        tolerance=mean.tolerance,
        bound=mean.bound,
        status=status if count else (Status.TIME_LIMIT if samples.late else Status.MAX_MATVECS),
        num_samples=count,
        matvecs={"iteration": samples.num_matvecs},
        method=steps,
        reason=reason,
        history=mean.history,
        note="; ".join(note for note in notes if note),
    )


def _exact(operator: Operator, f: SpectralFunction, interval: Interval, goal: Goal, reason: str) -> Estimate:
    n, eps = operator.shape[0], torch.finfo(operator.torch_dtype).eps
    matrix = operator.to_dense().to("cpu", torch.float64)
    value = bound = math.nan
    if bool(matrix.isfinite().all()):
        values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
        norm = float(values.abs().max())
        slack = f.rounding(eps, norm)
        check_interval(values, interval, slack)
        images = f(values, slack)
        value = float(images.sum())
        moved = values + 1e-6 * values.abs().clamp(min=slack or eps)
        slopes = (f(moved, slack) - images) / (moved - values)
        bound = _ROUNDINGS * eps * float(norm * slopes.abs().sum() + images.abs().sum())
    found = Found.exact(torch.tensor(value, dtype=torch.float64), bound, goal, n)
    return result_of(found, goal, {"iteration": n}, "exact", reason)
