"""Lanczos for an operator: basis, start and limits chosen, the search run until it ends or is ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hvplib.ad.memory import free_bytes, readable
from hvplib.eigen.evidence import Evidence
from hvplib.eigen.methods import Lanczos
from hvplib.eigen.products import Products
from hvplib.eigen.recomputed import floor
from hvplib.eigen.saved import Saved
from hvplib.eigen.search import Search
from hvplib.eigen.task import Task
from hvplib.interrupt import Interrupt
from hvplib.krylov.eigen_outcome import EigenOutcome
from hvplib.krylov.ends import Which
from hvplib.krylov.inner import EUCLIDEAN, Inner
from hvplib.krylov.lanczos import Factorization
from hvplib.results.status import Progress, Status

__all__ = ["Problem", "default_krylov_dim", "run_lanczos"]

_LEAST_COLUMNS = 20
_SHARE = 0.5  # of the free memory, for the basis
_BLOCK = 4
_WORTH_A_BLOCK = 1 / 3


@dataclass(frozen=True)
class Problem:
    """A x = θ x for a map that is self-adjoint in `inner`.

    Attributes:
        matmat: X (n, k) ↦ A X.
        size: n.
        inner: Inner product.
        random: k ↦ a block (n, k) of independent normal numbers, from a generator of its own.
        generator: That generator.
    """

    matmat: Callable[[Tensor], Tensor]
    size: int
    random: Callable[[int], Tensor]
    generator: torch.Generator
    inner: Inner = EUCLIDEAN


def run_lanczos(
    problem: Problem,
    k: int,
    which: Which,
    settings: Lanczos,
    *,
    start: Tensor | None = None,
    rtol: float,
    callback: Callable[[Progress], object] | None = None,
    time_limit: float | None = None,
    saved: Saved | None = None,
) -> tuple[EigenOutcome, Evidence]:
    """A x = θ x for k pairs at the ends of the spectrum, by thick-restart Lanczos.

    Args:
        problem: What is multiplied.
        k: Pairs wanted, at most n.
        which: "LA", "SA", "LM" or "BE".
        settings: Basis and limits; the outcome names what was chosen where they left it open.
        start: Columns (n, j) to start from; random if None.
        rtol: Relative tolerance.
        callback: Is told a `Progress` after each step.
        time_limit: Seconds; looked at after each step.
        saved: Where the state is kept, if anywhere.
    """
    products = Products(problem.matmat, problem.inner)
    like = problem.random(1) if start is None else start
    settings = _with_width(settings, products, problem, like, start)
    width = settings.block_size if start is None else start.shape[1]
    assert isinstance(width, int)
    settings = _with_basis(settings, k, problem.size, width, like)
    assert settings.krylov_dim is not None
    # A basis of fewer digits holds no vectors of more.
    stored = torch.finfo(settings.basis_dtype or like.dtype).eps
    rounding, limit = max(floor(problem.size, like.dtype), 10 * stored), _limit(settings, problem)
    task = Task(k, which, rtol, rounding, settings.miss_probability, limit)
    factorization = Factorization(
        _widened(like, problem, width) if start is None else start,
        capacity=settings.krylov_dim,
        lockable=k,
        size=problem.size,
        inner=problem.inner,
        dtype=settings.basis_dtype,
        device=None if settings.basis_device is None else torch.device(settings.basis_device),
    )
    search = Search(task, factorization, products, problem.random, drawn=start is None)
    if saved is not None:
        saved.resume(search, problem.generator, settings, start)
    status = _run(search, problem, callback, time_limit, saved)
    return _outcome(search, status), _evidence(search, settings)


def default_krylov_dim(k: int, n: int) -> int:
    """The larger of 2 k + 1 and 20, as in ARPACK, but not more than n."""
    return min(n, max(2 * k + 1, _LEAST_COLUMNS))


def _run(
    search: Search,
    problem: Problem,
    callback: Callable[[Progress], object] | None,
    time_limit: float | None,
    saved: Saved | None,
) -> Status:
    if search.status is not None:
        return search.status
    deadline = math.inf if time_limit is None else time.monotonic() + time_limit
    with Interrupt() as interrupt:
        status = _steps(search, problem, callback, deadline, saved, interrupt)
        if saved is not None and status is not Status.MAX_ITER:
            saved.keep(search, problem.generator, at_once=True)
    return status


def _steps(
    search: Search,
    problem: Problem,
    callback: Callable[[Progress], object] | None,
    deadline: float,
    saved: Saved | None,
    interrupt: Interrupt,
) -> Status:
    while True:
        if saved is not None:  # a search that has given up could not go on, were more products allowed
            saved.keep(search, problem.generator, at_once=search.exhausted)
        try:
            status = search.step()
        except KeyboardInterrupt:
            if interrupt.insisted:
                raise
            return Status.INTERRUPTED
        if status is not None:
            return status
        if callback is not None and callback(search.progress()):
            return Status.STOPPED
        if interrupt.came:
            return Status.INTERRUPTED
        if time.monotonic() >= deadline:
            return Status.TIME_LIMIT


def _with_width(
    settings: Lanczos, products: Products, problem: Problem, like: Tensor, start: Tensor | None
) -> Lanczos:
    """Settings with the block size decided."""
    if settings.block_size != "auto":
        return settings
    if start is not None or problem.size <= 4 * _BLOCK * _LEAST_COLUMNS:
        return replace(settings, block_size=1)
    block = _widened(like, problem, _BLOCK)
    products.seconds(like)  # the first product of an operator does more than the others
    single = products.seconds(like)
    several = products.seconds(block)
    return replace(settings, block_size=_BLOCK if several < _WORTH_A_BLOCK * _BLOCK * single else 1)


def _widened(like: Tensor, problem: Problem, width: int) -> Tensor:
    missing = width - like.shape[1]
    return torch.cat([like.mT, problem.random(missing).mT]).mT if missing > 0 else like


def _with_basis(settings: Lanczos, k: int, n: int, width: int, like: Tensor) -> Lanczos:
    """Settings with the size of the basis decided, within its budget."""
    needed = min(n, k + 2 * width + 1)
    wanted = settings.krylov_dim or max(default_krylov_dim(k, n), min(n, k + 5 * width))
    if settings.krylov_dim is not None and settings.krylov_dim < min(n, k + 2):
        raise ValueError(f"krylov_dim must be at least k + 2 = {k + 2}, got {settings.krylov_dim}")
    column = like.shape[0] * (settings.basis_dtype or like.dtype).itemsize
    device = torch.device(settings.basis_device or like.device)
    budget = settings.basis_budget or int(_SHARE * free_bytes(device))
    affordable = budget // max(column, 1) - width - k
    if settings.krylov_dim is None:
        wanted = max(min(wanted, affordable), needed)
    if affordable < wanted:
        raise MemoryError(
            f"a basis of {wanted} + {k + width} columns takes {readable((wanted + k + width) * column)}; "
            f"the budget on {device} is {readable(budget)}; ask for fewer pairs, pass a krylov_dim "
            f"of at least {needed}, basis_dtype=torch.float32, basis_device='cpu' or more basis_budget"
        )
    return replace(settings, krylov_dim=min(n, max(wanted, needed)))


def _limit(settings: Lanczos, problem: Problem) -> int:
    return settings.max_matvecs or min(max(2000, 20 * problem.size), 200_000)


def _outcome(search: Search, status: Status) -> EigenOutcome:
    values, vectors, norms = search.pairs()
    unit = search.products.unit or 1.0
    confirmed = search.locked.confirmed
    complete = values.numel() == search.task.k
    converged = (norms <= search.locked.tolerances(values)) & confirmed
    if status is Status.MAX_ITER and search.asymmetry > max(search.task.rtol, 100 * search.task.floor):
        status = Status.NOT_SYMMETRIC
    note = ""
    if confirmed and complete and bool(converged.all()) and not status.success:
        note = "all pairs have converged; it was the search for missed members that did not come to its end"
    return EigenOutcome(
        values=values * unit,
        vectors=vectors,
        residual_norms=norms * unit,
        converged=converged,
        status=status,
        num_iter=search.num_iter,
        num_matvecs=search.products.total,
        num_confirmations=search.products.by_purpose.get("confirmation", 0),
        num_mass_matvecs=0,
        operator_norm=search.factorization.norm * unit,
        history=torch.tensor(search.history, dtype=torch.float64).reshape(-1, 3),
        confirmed=confirmed,
        note=note,
    )


def _evidence(search: Search, settings: Lanczos) -> Evidence:
    unit = search.products.unit or 1.0
    # What restarts add to the iteration's own estimates stays well below ten times the floor.
    floors = 1 if search.locked.confirmed else 10
    norm, asymmetry = search.factorization.norm, search.factorization.asymmetry
    return Evidence(
        method=settings,
        by_purpose=dict(search.products.by_purpose),
        rounding=(search.task.floor * norm * floors + asymmetry) * unit,
        certainty=search.certainty.times(unit),
        asymmetry=search.asymmetry,
    )
