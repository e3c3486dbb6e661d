"""Eigenvalues at the ends of the spectrum, with evidence."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from hvplib.eigen.arpack import ARPACK, run_arpack
from hvplib.eigen.bounds import enclosures, gap_bounds
from hvplib.eigen.evidence import Evidence, of_outcome
from hvplib.eigen.generalized import mass_of, run_generalized
from hvplib.eigen.lanczos import Problem, default_krylov_dim, run_lanczos
from hvplib.eigen.lobpcg import LOBPCG, run_lobpcg
from hvplib.eigen.methods import Dense, Lanczos, Method, method_of
from hvplib.eigen.result import EigenResult
from hvplib.eigen.saved import Checkpoint, Saved
from hvplib.eigen.whole_space import whole_space
from hvplib.krylov.eigen_outcome import EigenOutcome
from hvplib.krylov.ends import Which
from hvplib.operators.base import Operator
from hvplib.operators.coerce import as_operator, as_symmetric
from hvplib.operators.mirror import taken
from hvplib.results.status import ConvergenceError, Progress, Status

__all__ = ["eigsh"]

_SEED = 0
# Up to this size, or twice the basis, the dense matrix is as cheap, and nothing in it can be missed.
_SMALL = 64
# Up to this size the dense matrix is small and LAPACK fast: what Lanczos has not found with 2 n products is
# found with n more.
_STORABLE = 2000
# What the caller has asked for is no failure.
_ASKED_FOR = (Status.INTERRUPTED, Status.TIME_LIMIT, Status.STOPPED)


def eigsh(
    A: Any,
    k: int = 6,
    *,
    which: Which = "LM",
    method: Method | str | None = None,
    v0: Any = None,
    M: Any = None,
    preconditioner: Any = None,
    generator: torch.Generator | int | None = None,
    rtol: float | None = None,
    callback: Callable[[Progress], object] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    time_limit: float | None = None,
    throw: bool = True,
) -> EigenResult:
    """A x_i = λ_i x_i for k eigenvalues at the ends of the spectrum of a symmetric A.

    A pair has converged if ‖A x − θ x‖ ≤ max(rtol |θ|, c ε ‖A‖) with ‖x‖ = 1, where the residual is
    recomputed from products made for it; c = 10 min(√n, 100), ε is that of A's dtype. The second term is what
    rounding leaves of an eigenvalue that is zero beside ‖A‖.

    Residuals prove that there is an eigenvalue near each θ, and `enclosures` says how near. They cannot prove
    that none is missing. So "lanczos" makes a second start, at random, beside the pairs found, takes in what
    it brings, and states the probability that it still missed one (`miss_probability`, `miss_resolution`).

    Args:
        A: Symmetric (n, n): an `Operator`, a tensor, an array, a SciPy sparse matrix or LinearOperator.
        k: How many pairs, at most n.
        which: "LM" largest magnitude, "LA" largest, "SA" smallest, "BE" both ends, half each and one more of
            the largest if k is odd.
        method: "lanczos" (`Lanczos`), "lobpcg" (`LOBPCG`), "arpack" (`ARPACK`) or "dense" (`Dense`). None
            takes "dense" where n is at most 64, or twice the basis of "lanczos", and else
            "lanczos"; if that has not converged after 2 n products and n is at most 2000, "dense" after all.
        v0: One vector or several to start from, such as the eigenvectors of a problem nearby.
        M: Symmetric positive definite, for A x = λ M x with xᵀM x = 1; residuals are ‖A x − θ M x‖ in the
            norm of M⁻¹. "lanczos" multiplies with M⁻¹ too: at hand for a diagonal, a matrix and what
            carries its `inverse`, as preconditioners do, and else found by conjugate gradients.
        preconditioner: Close to (A − σ M)⁻¹ for a σ beyond the wanted end of the spectrum, positive definite,
            as an operator or a function of blocks (n, k); for "lobpcg".
        generator: Of random starts, or a seed; without one, equal calls give equal bits.
        rtol: Relative tolerance on the residual; √ε of A's dtype by default, with which the eigenvalue
            itself, whose error is of second order in the residual, is right to ε where it is well separated.
        callback: Is told a `Progress` after each step; a true return value ends the iteration.
        checkpoint: A file to save the state in, and to take it up from if it is there ("lanczos" only). The
            resumed call gives the same bits as one that was not interrupted.
        time_limit: Seconds.
        throw: Raise `ConvergenceError` if not all pairs converge. Ctrl-C, the time limit and the callback
            never raise: they return the best so far.

    Returns:
        `EigenResult`.

    Raises:
        ConvergenceError: See `throw`; its `.result` holds what there is.
        ValueError: An argument is out of range, or A is not symmetric.
        CheckpointError: The checkpoint is damaged or of another problem.
        MemoryError: The basis does not fit.

    Source: Wu and Simon 2000, Thick-restart Lanczos, 10.1137/S0895479898334605.

    Example:
        >>> import torch
        >>> from hvplib import Diagonal, eigsh
        >>> A = Diagonal(torch.cat([torch.linspace(0, 1, 500), torch.tensor([7.0, 9.0, 9.0])]).double())
        >>> result = eigsh(A, 3, which="LA")
        >>> result.eigenvalues.round(decimals=4)
        tensor([9., 9., 7.], dtype=torch.float64)
        >>> bool(result.converged.all()), result.miss_probability <= 1e-3
        (True, True)
    """
    operator = as_symmetric(A)
    n = operator.shape[0]
    _check(k, n, which, rtol, time_limit)
    rtol = torch.finfo(operator.torch_dtype).eps ** 0.5 if rtol is None else float(rtol)
    start = None if v0 is None else _start(operator, v0)
    mass = None if M is None else mass_of(M, operator)
    settings = _chosen(method, k, n, checkpoint, preconditioner)
    drawn = _generator(generator)
    call = _Call(
        operator,
        mass,
        k,
        which,
        start,
        None if preconditioner is None else _product_of(preconditioner),
        drawn,
        _random(operator, drawn),
        rtol,
        callback,
        time_limit,
        None if checkpoint is None else Saved(_checkpoint(checkpoint)),
    )
    outcome, evidence = call.run(settings)
    if outcome.status is Status.MAX_ITER and method is None and checkpoint is None and n <= _STORABLE:
        outcome, evidence = _joined((outcome, evidence), call.run(Dense()))
    result = _result(outcome, evidence, operator, back=_back(A, v0))
    if throw and not outcome.status.success and outcome.status not in _ASKED_FOR:
        raise ConvergenceError(_message(result), result)
    return result


def _check(k: int, n: int, which: str, rtol: float | None, time_limit: float | None) -> None:
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= n:
        raise ValueError(f"k must be an integer between 1 and n = {n}, got {k!r}")
    if which not in ("LM", "LA", "SA", "BE"):
        raise ValueError(
            f'which must be "LM", "LA", "SA" or "BE", got {which!r}; products show the ends of the spectrum: '
            "for eigenvalues inside, give the inverse, as an operator that solves with a shifted A"
        )
    if rtol is not None and not 0 <= rtol < 1:
        raise ValueError(f"rtol must be at least 0 and less than 1, got {rtol}")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"time_limit must be positive seconds, got {time_limit}")


def _chosen(method: Method | str | None, k: int, n: int, checkpoint: Any, preconditioner: Any) -> Method:
    settings = _default(k, n, checkpoint, preconditioner) if method is None else method_of(method)
    if checkpoint is not None and not isinstance(settings, Lanczos):
        raise ValueError(f"checkpoint needs method='lanczos', got {settings}; leave it out, or ask for that")
    if preconditioner is not None and not isinstance(settings, LOBPCG):
        raise ValueError(
            f"preconditioner needs method='lobpcg', got {settings}; leave it out, or ask for that"
        )
    return settings


def _default(k: int, n: int, checkpoint: Any, preconditioner: Any) -> Method:
    if preconditioner is not None:
        return LOBPCG()
    if checkpoint is not None:
        return Lanczos()
    if n <= max(_SMALL, 2 * default_krylov_dim(k, n)):
        return Dense()
    return Lanczos(max_matvecs=2 * n) if n <= _STORABLE else Lanczos()


@dataclass(frozen=True)
class _Call:
    """What was asked for, to be done by any method."""

    operator: Operator
    mass: Operator | None
    k: int
    which: Which
    start: Tensor | None
    precondition: Callable[[Tensor], Tensor] | None
    generator: torch.Generator
    random: Callable[[int], Tensor]
    rtol: float
    callback: Callable[[Progress], object] | None
    time_limit: float | None
    saved: Saved | None

    def run(self, settings: Method) -> tuple[EigenOutcome, Evidence]:
        common: dict[str, Any] = {
            "start": self.start,
            "rtol": self.rtol,
            "callback": self.callback,
            "time_limit": self.time_limit,
        }
        what = self.k, self.which, settings
        if self.mass is not None:
            common |= {"generator": self.generator, "precondition": self.precondition, "saved": self.saved}
            return run_generalized(self.operator, self.mass, *what, **common)
        if isinstance(settings, Lanczos):
            n = self.operator.shape[0]
            problem = Problem(self.operator._product, n, self.random, self.generator)
            return run_lanczos(problem, self.k, self.which, settings, saved=self.saved, **common)
        common["generator"] = self.generator
        if isinstance(settings, LOBPCG):
            common["precondition"] = self.precondition
            outcome = run_lobpcg(self.operator, self.k, self.which, settings, **common)
        elif isinstance(settings, ARPACK):
            outcome = run_arpack(self.operator, self.k, self.which, settings, **common)
        else:
            outcome = whole_space(self.operator, self.k, self.which, None, self.rtol)
        return outcome, of_outcome(outcome, settings, self.which, whole=isinstance(settings, Dense))


def _joined(
    before: tuple[EigenOutcome, Evidence], after: tuple[EigenOutcome, Evidence]
) -> tuple[EigenOutcome, Evidence]:
    """What was found at last, with the products of both counted."""
    spent = {**before[1].by_purpose}
    for purpose, count in after[1].by_purpose.items():
        name = "dense matrix" if purpose == "iteration" else purpose
        spent[name] = spent.get(name, 0) + count
    outcome = replace(
        after[0],
        num_matvecs=before[0].num_matvecs + after[0].num_matvecs,
        num_mass_matvecs=before[0].num_mass_matvecs + after[0].num_mass_matvecs,
        num_iter=before[0].num_iter,
    )
    return outcome, replace(after[1], by_purpose=spent)


def _product_of(preconditioner: Any) -> Callable[[Tensor], Tensor]:
    """A function of blocks, from what stands for a preconditioner."""
    if callable(preconditioner) and not isinstance(preconditioner, LinearOperator):
        function: Callable[[Tensor], Tensor] = preconditioner
        return function
    return as_operator(preconditioner, "preconditioner")._product


def _start(operator: Operator, v0: Any) -> Tensor:
    start, _ = taken(operator, v0, "v0")
    if not bool(torch.isfinite(start).all()):
        raise ValueError("v0 must be finite, got NaN or infinity")
    if not bool(start.any()):
        raise ValueError("v0 must not be zero; leave it out for a random start")
    return start


def _generator(generator: torch.Generator | int | None) -> torch.Generator:
    if isinstance(generator, torch.Generator):
        return generator
    return torch.Generator().manual_seed(_SEED if generator is None else generator)


def _random(operator: Operator, generator: torch.Generator) -> Callable[[int], Tensor]:
    def random(columns: int) -> Tensor:
        shape = (columns, operator.shape[1])
        rows = torch.randn(shape, generator=generator, dtype=operator.torch_dtype, device=generator.device)
        return rows.to(operator.device).mT

    return random


def _checkpoint(checkpoint: str | os.PathLike[str] | Checkpoint) -> Checkpoint:
    return checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)


def _back(A: Any, v0: Any) -> Callable[[Tensor], Any]:
    """What the result mirrors: v0 if there is one, else A."""
    mirrored = A if v0 is None else v0
    numeric = issparse(mirrored) or isinstance(mirrored, np.ndarray | LinearOperator | list)
    if numeric and not isinstance(mirrored, Operator):
        return lambda x: x.cpu().numpy()
    return lambda x: x


def _result(
    outcome: EigenOutcome,
    evidence: Evidence,
    operator: Operator,
    *,
    back: Callable[[Tensor], Any],
) -> EigenResult:
    values, norms = outcome.values, outcome.residual_norms
    gaps = (
        gap_bounds(values, norms, evidence.certainty.elsewhere, evidence.rounding)
        if values.numel()
        else norms
    )
    return EigenResult(
        eigenvalues=back(values.to(operator.torch_dtype).to(operator.device)),
        eigenvectors=back(outcome.vectors),
        residual_norms=norms,
        converged=outcome.converged,
        enclosures=enclosures(values, norms, evidence.rounding),
        gap_bounds=gaps,
        status=outcome.status,
        miss_probability=evidence.certainty.miss_probability,
        miss_resolution=evidence.certainty.miss_resolution,
        confirmed=outcome.confirmed,
        num_matvecs=outcome.num_matvecs,
        matvecs=evidence.by_purpose,
        num_mass_matvecs=outcome.num_mass_matvecs,
        num_iter=outcome.num_iter,
        operator_norm=outcome.operator_norm,
        asymmetry=evidence.asymmetry,
        history=outcome.history,
        method=evidence.method,
        note=outcome.note,
        space=operator.domain,
    )


def _message(result: EigenResult) -> str:
    done = int(result.converged.sum())
    note = f" ({result.note})" if result.note else ""
    return (
        f"{done} of {len(result.converged)} eigenpairs have converged after {result.num_matvecs} products: "
        f"{result.status}{note}; .result holds them all, and throw=False returns it"
    )
