"""The largest singular values of an operator, with evidence."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from hvplib.eigen.bounds import enclosures, gap_bounds
from hvplib.eigen.eigsh import eigsh
from hvplib.eigen.lanczos import default_krylov_dim
from hvplib.eigen.methods import Dense, Lanczos, Method, method_of
from hvplib.eigen.result import EigenResult
from hvplib.eigen.saved import Checkpoint
from hvplib.eigen.triplets import Normal, Triplets, Unsquared, improved, measured, no_triplets, scale_of
from hvplib.operators.base import Operator
from hvplib.operators.coerce import as_operator
from hvplib.operators.mirror import taken
from hvplib.results.status import ConvergenceError, Progress, Status
from hvplib.results.svd import SingularResult

__all__ = ["svds"]

# Up to this many columns, or twice the basis, the dense matrix is as cheap, and nothing in it can be missed.
_SMALL = 64
_ASKED_FOR = (Status.INTERRUPTED, Status.TIME_LIMIT, Status.STOPPED)


def svds(
    A: Any,
    k: int = 6,
    *,
    method: Method | str | None = None,
    v0: Any = None,
    generator: torch.Generator | int | None = None,
    rtol: float | None = None,
    callback: Callable[[Progress], object] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    time_limit: float | None = None,
    throw: bool = True,
) -> SingularResult:
    """A v_i = σ_i u_i and Aᵀ u_i = σ_i v_i for the k largest singular values of any A.

    `eigsh` finds the eigenvectors of AᵀA, or of A Aᵀ if that is smaller; then they go through A and back,
    with a small singular value decomposition each way, which makes both sets of vectors orthonormal, those of
    σ = 0 included. A triplet has converged if the root mean square of ‖A v − σ u‖ and ‖Aᵀ u − σ v‖,
    recomputed from products made for it, is at most max(rtol σ, c ε ‖A‖), with c = 10 min(√(m + n), 100).

    To square A loses digits of singular values far below ‖A‖. Where these are needed, `eigsh` goes on from
    what was found with [[0, A], [Aᵀ, 0]], whose eigenvalues are the singular values themselves, at a multiple
    of the products. For the smallest singular values, ask `eigsh(A.T @ A, k, which="SA")` for their squares;
    those below ‖A‖ √ε cannot be told from zero by them.

    Args:
        A: (m, n), with a product with its transpose: an `Operator`, a tensor, an array, a SciPy sparse matrix
            or LinearOperator.
        k: How many triplets, at most min(m, n).
        method: How `eigsh` finds the eigenvectors: "lanczos", "lobpcg" or "arpack", or their settings; or
            "dense" for the singular value decomposition of the matrix itself. None takes "dense" where
            min(m, n) is at most 64, or twice the basis of "lanczos", and else "lanczos".
        v0: One right vector or several to start from: what A can multiply.
        generator: Of random starts, or a seed; without one, equal calls give equal bits.
        rtol: Relative tolerance on the residuals; √ε of A's dtype by default.
        callback: Is told a `Progress` after each step; a true return value ends the iteration.
        checkpoint: As for `eigsh`; it covers the part with AᵀA.
        time_limit: Seconds.
        throw: Raise `ConvergenceError` if not all triplets converge. Ctrl-C, the time limit and the callback
            never raise: they return the best so far.

    Returns:
        `SingularResult`.

    Raises:
        ConvergenceError: See `throw`; its `.result` holds what there is.
        ValueError: An argument is out of range.
        NotImplementedError: A has no product with its transpose.
        CheckpointError: As for `eigsh`.

    Source: Golub and Kahan 1965, 10.1137/0702016, for singular values by eigenvalues. The enclosures: A has a
    perturbation E with ‖E‖₂ = max(‖A v − σ u‖, ‖Aᵀ u − σ v‖) such that u and v are singular vectors of A + E
    for σ (Davis, Kahan, Weinberger 1982, 10.1137/0719029), and each singular value of A + E is within ‖E‖₂ of
    one of A (Weyl).

    Example:
        >>> import torch
        >>> from hvplib.eigen.svds import svds
        >>> A = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64))[:, :3]
        >>> svds(A, 2).singular_values
        tensor([3., 2.], dtype=torch.float64)
    """
    operator = as_operator(A)
    m, n = operator.shape
    _check(k, m, n, rtol)
    rtol = torch.finfo(operator.torch_dtype).eps ** 0.5 if rtol is None else float(rtol)
    settings = Lanczos() if method is None and checkpoint is not None else _chosen(method, k, min(m, n))
    before = operator.num_matvecs
    tall = operator.T if m < n else operator
    if isinstance(settings, Dense):
        if checkpoint is not None:
            raise ValueError("checkpoint needs method='lanczos', got Dense(); leave it out, or ask for that")
        found = _dense(tall, k, settings)
    else:
        scale = scale_of(tall)
        deadline = None if time_limit is None else time.monotonic() + time_limit
        result = eigsh(
            Normal(tall, scale),
            k,
            which="LA",
            method=settings,
            v0=_start(operator, v0, through=m < n),
            generator=generator,
            rtol=rtol,
            callback=None if callback is None else _told_of_squares(callback, scale),
            checkpoint=checkpoint,
            time_limit=time_limit,
            throw=False,
        )
        found = _through(tall, result, scale)
        if found.status is Status.CONVERGED and not _suffices(found.triplets, rtol):
            rest = None if deadline is None else max(deadline - time.monotonic(), 1e-9)
            found = _unsquared(tall, found, settings, generator, rtol, callback, rest)
    return _result(found, operator, before, rtol, _back(A, v0), throw=throw, wide=m < n)


@dataclass(frozen=True)
class _Found:
    """Triplets, and what is known of how they came about."""

    triplets: Triplets
    status: Status
    method: Any
    num_iter: int
    iterated: int  # products of the iterations
    miss_probability: float
    miss_resolution: float
    note: str = ""


def _check(k: int, m: int, n: int, rtol: float | None) -> None:
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= min(m, n):
        raise ValueError(f"k must be an integer between 1 and min(m, n) = {min(m, n)}, got {k!r}")
    if rtol is not None and not 0 <= rtol < 1:
        raise ValueError(f"rtol must be at least 0 and less than 1, got {rtol}")


def _chosen(method: Method | str | None, k: int, size: int) -> Method:
    if method is not None:
        return method_of(method)
    return Dense() if size <= max(_SMALL, 2 * default_krylov_dim(k, size)) else Lanczos()


def _start(operator: Operator, v0: Any, *, through: bool) -> Tensor | None:
    """Where to start: right vectors, or left ones made from them."""
    if v0 is None:
        return None
    start, _ = taken(operator, v0, "v0")
    return operator._product(start) if through else start


def _told_of_squares(callback: Callable[[Progress], object], scale: float) -> Callable[[Progress], object]:
    """The callback of the user, told of singular values instead of their squares."""

    def told(progress: Progress) -> object:
        assert progress.values is not None
        values = progress.values.clamp(min=0).sqrt()
        norms = scale * progress.residual_norms / values.clamp(min=torch.finfo(values.dtype).tiny)
        return callback(Progress(progress.num_iter, 2 * progress.num_matvecs, norms, scale * values))

    return told


def _told_after(callback: Callable[[Progress], object], before: _Found) -> Callable[[Progress], object]:
    """The callback of the user, told of what comes after the squares."""

    def told(progress: Progress) -> object:
        num_iter, num_matvecs = (
            before.num_iter + progress.num_iter,
            before.iterated + 2 * progress.num_matvecs,
        )
        return callback(Progress(num_iter, num_matvecs, progress.residual_norms, progress.values))

    return told


# ------------------------------------------------------------------------------------------------ triplets


def _dense(B: Operator, k: int, settings: Dense) -> _Found:
    matrix = B.to_dense().to("cpu", torch.float64)
    failed = _Found(no_triplets(B), Status.NON_FINITE, settings, 0, 0, math.nan, math.nan)
    if not bool(matrix.isfinite().all()):
        return failed
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    dtype, device = B.torch_dtype, B.device
    triplets = measured(B, left.mT[:k].to(device, dtype).mT, right[:k].to(device, dtype).mT)
    return failed if triplets is None else _Found(triplets, Status.CONVERGED, settings, 0, 0, 0.0, 0.0)


def _through(B: Operator, result: EigenResult, scale: float) -> _Found:
    """Triplets from the eigenvectors of BᵀB / scale²."""
    found = _Found(
        no_triplets(B),
        result.status,
        result.method,
        result.num_iter,
        2 * result.num_matvecs,
        result.miss_probability,
        math.nan,
        result.note,
    )
    if not len(result.eigenvalues):
        return found
    triplets = improved(B, result.eigenvectors)
    if triplets is None:
        return replace(found, status=Status.NON_FINITE)
    last = float(triplets.values[-1])
    # (σ + δ)² = σ² + resolution
    resolution = math.hypot(last, scale * math.sqrt(result.miss_resolution)) - last
    return replace(found, triplets=triplets, miss_resolution=resolution + triplets.hidden)


def _suffices(triplets: Triplets, rtol: float) -> bool:
    """Whether the squares have shown all that the tolerance asks for."""
    tolerances = triplets.tolerances(rtol)
    return bool(triplets.converged(rtol).all()) and triplets.hidden <= float(tolerances[-1])


def _unsquared(
    B: Operator,
    squared: _Found,
    settings: Method,
    generator: torch.Generator | int | None,
    rtol: float,
    callback: Callable[[Progress], object] | None,
    time_limit: float | None,
) -> _Found:
    """Go on with [[0, B], [Bᵀ, 0]] from the triplets that its square has given."""
    before = squared.triplets
    result = eigsh(
        Unsquared(B),
        before.values.numel(),
        which="LA",
        method=settings,
        v0=torch.cat([before.left, before.right]).sum(1),
        generator=generator,
        rtol=rtol,
        callback=None if callback is None else _told_after(callback, squared),
        time_limit=time_limit,
        throw=False,
    )
    found = replace(
        squared,
        status=result.status,
        num_iter=squared.num_iter + result.num_iter,
        iterated=squared.iterated + 2 * result.num_matvecs,
        miss_probability=result.miss_probability,
        miss_resolution=result.miss_resolution,
        note=result.note,
    )
    if not len(result.eigenvalues):
        return found
    triplets = improved(B, result.eigenvectors[B.shape[0] :])
    return replace(found, status=Status.NON_FINITE) if triplets is None else replace(found, triplets=triplets)


# -------------------------------------------------------------------------------------------------- result


def _back(A: Any, v0: Any) -> Callable[[Tensor], Any]:
    """What the result mirrors: v0 if there is one, else A."""
    mirrored = A if v0 is None else v0
    numeric = issparse(mirrored) or isinstance(mirrored, np.ndarray | LinearOperator)
    if numeric and not isinstance(mirrored, Operator):
        return lambda x: x.cpu().numpy()
    return lambda x: x


def _result(
    found: _Found,
    operator: Operator,
    before: int,
    rtol: float,
    back: Callable[[Tensor], Any],
    *,
    throw: bool,
    wide: bool,
) -> SingularResult:
    triplets = found.triplets
    converged = triplets.converged(rtol)
    status, note = _judged(found, bool(converged.all()))
    left, right = (triplets.right, triplets.left) if wide else (triplets.left, triplets.right)
    values, rounding = triplets.values, triplets.rounding
    spent = operator.num_matvecs - before
    result = SingularResult(
        singular_values=back(values.to(operator.device, operator.torch_dtype)),
        left_vectors=back(left),
        right_vectors=back(right),
        residual_norms=triplets.norms.flip(1) if wide else triplets.norms,
        converged=converged,
        enclosures=enclosures(values, triplets.norms.amax(1), rounding).clamp(min=0),
        gap_bounds=_gap_bounds(triplets, found.miss_resolution if status.success else math.nan),
        status=status,
        miss_probability=found.miss_probability,
        miss_resolution=found.miss_resolution,
        num_matvecs=spent,
        matvecs={"iteration": found.iterated, "vectors and confirmation": spent - found.iterated},
        num_iter=found.num_iter,
        method=found.method,
        note=note,
    )
    if throw and not status.success and status not in _ASKED_FOR:
        raise ConvergenceError(_message(result), result)
    return result


def _judged(found: _Found, converged: bool) -> tuple[Status, str]:
    status = found.status
    if status is Status.CONVERGED and not converged:
        return Status.STAGNATED, found.note
    return status, found.note


def _gap_bounds(triplets: Triplets, resolution: float) -> Tensor:
    """By the eigenvalues ±σ and 0 of [[0, B], [Bᵀ, 0]]; so much beyond the last σ, none was missed."""
    values = triplets.values
    if not values.numel():
        return values
    beyond = math.inf if math.isnan(resolution) else float(values[-1]) + resolution
    elsewhere = torch.tensor([[-math.inf, beyond]], dtype=torch.float64)
    return gap_bounds(values, triplets.mean_norms, elsewhere, triplets.rounding)


def _message(result: SingularResult) -> str:
    done = int(result.converged.sum())
    note = f" ({result.note})" if result.note else ""
    return (
        f"{done} of {len(result.converged)} singular triplets have converged after {result.num_matvecs} "
        f"products: {result.status}{note}; .result holds them all, and throw=False returns it"
    )
