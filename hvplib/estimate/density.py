"""`spectral_density`: how the eigenvalues of a symmetric operator are distributed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from hvplib.eigen.eigsh import eigsh
from hvplib.eigen.result import EigenResult
from hvplib.estimate.arguments import check_time
from hvplib.estimate.density_report import Spectrum, report
from hvplib.estimate.probed import planned, probed, sphere
from hvplib.estimate.spectral_function import interval_of
from hvplib.interrupt import Interrupt
from hvplib.operators.base import Operator
from hvplib.operators.coerce import as_symmetric
from hvplib.operators.projection import Deflated
from hvplib.results.common import settled
from hvplib.results.density import SpectralDensity
from hvplib.results.status import ConvergenceError, Progress, Status

__all__ = ["spectral_density"]

# Up to this size the dense matrix is small and LAPACK fast.
_STORABLE = 2000


def spectral_density(
    A: Any,
    *,
    num_probes: int = 10,
    krylov_dim: int = 80,
    width: float | Literal["auto"] = "auto",
    grid: int | Tensor = 1024,
    scale: Literal["linear", "log"] = "linear",
    outliers: int | EigenResult | None = None,
    interval: tuple[float | None, float | None] | None = None,
    confidence: float = 0.95,
    method: Literal["slq", "dense"] | None = None,
    reorthogonalize: bool | None = None,
    block_size: int | None = None,
    generator: torch.Generator | int | None = None,
    callback: Callable[[Progress], object] | None = None,
    time_limit: float | None = None,
    throw: bool = True,
) -> SpectralDensity:
    """φ(t) = (1/n) Σ_i N(t − λ_i; width) and F(t) = #{λ_i ≤ t} / n, by stochastic Lanczos quadrature.

    For a direction v that is uniform on the sphere, vᵀ g(A) v has the expectation tr g(A) / n, and m steps of
    Lanczos from v make a Gauss rule of its spectral measure: nodes θ and weights w with Σ w_i g(θ_i) ≈
    vᵀ g(A) v. How near that is has two parts, which are told apart:

    * `cdf_bracket`, what is certain of the probes drawn: by the inequalities of Chebyshev, Markov and
      Stieltjes, vᵀ 1[A ≤ t] v lies between sums of the weights, for all t. It narrows like 1/m.
    * `band`, what chance adds: vᵀ 1[A ≤ t] v is distributed like Beta(r/2, (n − r)/2) with r = n F(t), which
      is sub-Gaussian with the variance proxy 1/(2n + 4). So with k probes |mean − F(t)| ≤
      (log(2 (n − 1)/δ) / (k (n + 2)))^½ for all t at once with a probability of 1 − δ or more: for large
      n one probe tells almost all.

    `cdf_bounds` and `density_bounds` hold both; the latter follow from the former by integration by parts.
    The density itself is nearer to φ than its bounds say, which hold for any spectrum with these rules.

    Args:
        A: Symmetric (n, n): an operator, tensor, array, or SciPy's sparse matrix or LinearOperator.
        num_probes: k.
        krylov_dim: m, the products spent on each probe.
        width: Standard deviation of the Gaussians: in the units of t, in decades with scale "log". "auto" is
            0.75 (t_max − t_min)/(m − 1), with the ends of the Ritz values, outliers apart: the
            least width that m steps resolve in a spectrum without gaps. Wider ones have narrower bounds.
        grid: How many points, evenly over the Ritz values and three widths more, with some around each
            outlier beside; or the points themselves, ascending.
        scale: "log" smooths log10 λ, and leaves out what is not positive, with its share stated.
        outliers: Eigenvalues to take out before: an `EigenResult`, or how many of largest magnitude `eigsh`
            is to find. They count exactly, and m steps resolve the bulk more finely without them.
        interval: (lower, upper) with all eigenvalues between, None for an end that is not known. It bounds
            the brackets' tails.
        confidence: 1 − δ of the bounds.
        method: "slq", or "dense", which has all eigenvalues from n products; None takes that where n is at
            most k m, and 2000.
        reorthogonalize: True keeps the m vectors of each probe, and every new one orthogonal to them, so that
            the bracket holds up to rounding, which `shift` allows for. False keeps three vectors: converged
            Ritz values then come in copies, whose weights sum to the right one (Greenbaum 1989), which
            takes steps from the resolution, and the bracket holds as far as copies lie within `shift` of
            each other, as they do in practice. None keeps them if half of the free memory holds those of a
            probe.
        block_size: Probes multiplied at a time; as many as fit by default, up to 16.
        generator: Of the probes, or a seed; without one, equal calls give equal bits.
        callback: Is told a `Progress` after each step; returning True ends it.
        time_limit: Seconds.
        throw: Raise `ConvergenceError` where products are not finite. Ctrl-C, the time limit and the callback
            never raise: they return what there is, with its wider bounds.

    Returns:
        `SpectralDensity`.

    Raises:
        ConvergenceError: See `throw`; or nothing can be told yet.
        ValueError: An argument is out of range.
        MemoryError: `reorthogonalize=True`, and the basis does not fit.

    Source: Lin, Saad, Yang (2016), Approximating spectral densities of large matrices, 10.1137/130934283;
    Ubaru, Chen, Saad (2017), 10.1137/16M1104974; Chen, Trogdon, Ubaru (2021), arXiv 2105.06595, for the
    bounds; Marchal, Arbel (2017), 10.1214/17-ECP92, for the variance proxy; Greenbaum (1989),
    10.1016/0024-3795(89)90285-1.

    Example:
        >>> import torch
        >>> from hvplib import Diagonal, spectral_density
        >>> A = Diagonal(torch.linspace(-1, 1, 5000).double())
        >>> found = spectral_density(A, num_probes=2, krylov_dim=40, grid=torch.tensor([-0.5, 0.0, 0.5]))
        >>> found.cdf.round(decimals=1), found.num_matvecs
        (tensor([0.2000, 0.5000, 0.8000], dtype=torch.float64), 80)
        >>> bool(found.cdf_bounds[1, 0] <= 0.5 <= found.cdf_bounds[1, 1])
        True
    """
    started = time.monotonic()
    operator = as_symmetric(A)
    n, eps = operator.shape[0], torch.finfo(operator.torch_dtype).eps
    _check(num_probes, krylov_dim, width, scale, confidence, method)
    deadline = started + check_time(time_limit)
    ends = interval_of(interval, positive_semidefinite=operator.positive_semidefinite)
    before = operator.num_matvecs
    bulk, values, coupling = _without(operator, outliers)
    found_by = operator.num_matvecs - before
    left = n - len(values)
    if method is None:
        method = "dense" if n <= min(num_probes * krylov_dim, _STORABLE) or not left else "slq"
    if method == "dense":
        whole, status = _dense(operator)
        spectrum = Spectrum.whole(whole, eps) if len(whole) else None
        text, steps = "dense matrix", krylov_dim
    else:
        steps = min(krylov_dim, left)
        plan = planned(bulk, num_probes, steps, reorthogonalize=reorthogonalize, block_size=block_size)
        probes = sphere(bulk, generator)
        with Interrupt() as interrupt:
            rules, status = probed(
                bulk,
                lambda k: _inside(bulk, probes.block(k)),
                num_probes,
                plan,
                callback=callback,
                deadline=deadline,
                interrupt=interrupt,
            )
        spectrum = Spectrum(n, rules, values, eps, coupling, ends) if rules else None
        how = "reorthogonalised" if plan.keep else "not reorthogonalised"
        text = f"Lanczos quadrature, {num_probes} probes of {plan.steps} steps, {how}"
    if spectrum is None:
        raise ConvergenceError(f"nothing is known of the spectrum: {status}", _Nothing(status))
    purposes = {"outliers": found_by, "iteration": operator.num_matvecs - before - found_by}
    result = report(
        spectrum,
        width=width,
        grid=grid,
        scale=scale,
        confidence=confidence,
        steps=steps,
        status=status,
        matvecs={name: spent for name, spent in purposes.items() if spent},
        method=text,
    )
    return settled(result, throw=throw)


class _Nothing:
    """What there is before the first step."""

    def __init__(self, status: Status) -> None:
        self.status = status


def _check(
    num_probes: int, krylov_dim: int, width: Any, scale: str, confidence: float, method: str | None
) -> None:
    for name, value in (("num_probes", num_probes), ("krylov_dim", krylov_dim)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if width != "auto" and not (isinstance(width, int | float) and 0 < width < math.inf):
        raise ValueError(f'width must be positive, or "auto", got {width!r}')
    if scale not in ("linear", "log"):
        raise ValueError(f'scale must be "linear" or "log", got {scale!r}')
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence!r}")
    if method not in (None, "slq", "dense"):
        raise ValueError(f'method must be "slq", "dense" or None, got {method!r}')


def _without(operator: Operator, outliers: int | EigenResult | None) -> tuple[Operator, Tensor, float]:
    """A on the complement of the outliers, their eigenvalues, and what couples both."""
    nothing = torch.zeros(0, dtype=torch.float64)
    if outliers is None or outliers == 0:
        return operator, nothing, 0.0
    if isinstance(outliers, EigenResult):
        found = outliers
    elif isinstance(outliers, int) and not isinstance(outliers, bool) and 0 < outliers < operator.shape[0]:
        found = eigsh(operator, outliers, which="LM", throw=False)
    else:
        raise ValueError(
            f"outliers must be an EigenResult, or a number below n = {operator.shape[0]}, got {outliers!r}"
        )
    values = torch.as_tensor(found.eigenvalues).to("cpu", torch.float64).reshape(-1)
    vectors = torch.as_tensor(found.eigenvectors).to(operator.device, operator.torch_dtype)
    if vectors.shape != (operator.shape[0], len(values)):
        raise ValueError(
            f"outliers must have eigenvectors ({operator.shape[0]}, p), got {tuple(vectors.shape)}: they are "
            "of another operator"
        )
    # A differs from diag(θ) beside A on the complement by no more than twice the residuals.
    coupling = 2 * float(torch.linalg.vector_norm(found.residual_norms))
    return Deflated(operator, vectors), values, coupling


def _inside(operator: Operator, block: Tensor) -> Tensor:
    """Directions in the complement of what is deflated; uniform on its sphere, once normalised."""
    if not isinstance(operator, Deflated):
        return block
    for _ in range(2):
        block = block - operator.vectors @ (operator.vectors.mT @ block)
    return block.mT.contiguous().mT


def _dense(operator: Operator) -> tuple[Tensor, Status]:
    """All eigenvalues; none if a product is not finite."""
    matrix = operator.to_dense().to("cpu", torch.float64)
    if not bool(matrix.isfinite().all()):
        return torch.zeros(0, dtype=torch.float64), Status.NON_FINITE
    return torch.linalg.eigvalsh((matrix + matrix.mT) / 2), Status.EXACT
