"""From the settings of a method to what makes its steps."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hvplib.ad.memory import free_bytes, readable
from hvplib.optim.bounded_trust_region import BoundedSteihaug
from hvplib.optim.box import Box
from hvplib.optim.cubic import CubicRegularisation
from hvplib.optim.descent import Descent
from hvplib.optim.directions import directions
from hvplib.optim.evaluation import Objective, Point
from hvplib.optim.exact import Exact, check_storable
from hvplib.optim.krylov_model import KrylovModel
from hvplib.optim.methods import (
    ARC,
    Auto,
    LineSearchMethod,
    LineSearchNewtonCG,
    Method,
    TrustExact,
    TrustKrylov,
    TrustNCG,
)
from hvplib.optim.preconditioning import Preconditioning
from hvplib.optim.recycling import NONE, Recycling
from hvplib.optim.run import Advance
from hvplib.optim.steihaug import Steihaug
from hvplib.optim.trust_region import Space, TrustRegion

__all__ = ["built", "chosen"]

Random = Callable[[int], Tensor]

# Up to this size the whole Hessian is one block of products.
_SMALL = 64
# Of the free memory, for a Krylov basis.
_SHARE = 1 / 8
# A basis that large serves most models; conjugate gradients do without where it does not fit.
_ENOUGH = 200
_MOST = 500
_LEAST = 20
# Directions that are recycled: on the classical problems a little better than eight.
_RECYCLED = 20


def chosen(settings: Method, objective: Objective, *, preconditioned: bool) -> Method:
    """What "auto" stands for here; other settings as they are."""
    if not isinstance(settings, Auto):
        return settings
    n = objective.space.size
    if n <= _SMALL and not preconditioned:
        return TrustExact()
    return TrustKrylov() if _affordable(objective) >= min(n, _ENOUGH) else TrustNCG()


def built(
    settings: Method,
    objective: Objective,
    precondition: Preconditioning,
    random: Random,
    *,
    preconditioned: bool = False,
) -> Advance:
    """What makes the steps of this method.

    Args:
        settings: Other than `Auto`.
        objective: What is minimised.
        precondition: Of a point, the user's preconditioner.
        random: k ↦ a block (n, k) of normal numbers.
        preconditioned: Whether there is one. Then nothing is recycled unless asked for, and the norm is its.

    Raises:
        MemoryError: What it stores does not fit.
    """
    recycling = _recycling(settings, objective, preconditioned=preconditioned)
    if isinstance(settings, TrustExact):
        check_storable(objective.space.size)
        return TrustRegion(objective, settings, lambda point, rtol: Exact(point))
    if isinstance(settings, TrustKrylov):
        model = _krylov(settings, settings.boundary_rtol, objective, precondition, random, recycling)
        return TrustRegion(objective, settings, model)
    if isinstance(settings, ARC):
        model = _krylov(settings, 0.0, objective, precondition, random, recycling)
        return CubicRegularisation(objective, settings, model, initial_length=settings.initial_length)
    if isinstance(settings, TrustNCG):
        max_iter = settings.max_cg_iter or objective.space.size
        if objective.box is None:
            return TrustRegion(objective, settings, _steihaug(max_iter, precondition, recycling))
        return TrustRegion(objective, settings, _bounded(objective.box, max_iter, precondition))
    if isinstance(settings, LineSearchMethod):
        return Descent(objective, settings, directions(settings, objective, precondition, recycling))
    raise TypeError(f"no way is known to run {settings!r}")


def _steihaug(
    max_iter: int, precondition: Preconditioning, recycling: Recycling
) -> Callable[[Point, float], Space]:
    return lambda point, rtol: Steihaug(
        point, rtol, max_iter=max_iter, precondition=precondition(point), recycling=recycling
    )


def _bounded(box: Box, max_iter: int, precondition: Preconditioning) -> Callable[[Point, float], Space]:
    return lambda point, rtol: BoundedSteihaug(
        point, box, rtol, max_iter=max_iter, precondition=precondition(point)
    )


def _krylov(
    settings: TrustKrylov | ARC,
    boundary_rtol: float,
    objective: Objective,
    precondition: Preconditioning,
    random: Random,
    recycling: Recycling,
) -> Callable[[Point, float], KrylovModel]:
    krylov_dim = _krylov_dim(settings.krylov_dim, objective, recycling)
    return lambda point, rtol: KrylovModel(
        point,
        rtol,
        boundary_rtol=boundary_rtol,
        krylov_dim=krylov_dim,
        precondition=precondition(point),
        random=random,
        recycling=recycling,
    )


def _recycling(settings: Method, objective: Objective, *, preconditioned: bool) -> Recycling:
    """As wanted; by default none where memory lacks, or where there is a preconditioner."""
    if not isinstance(settings, TrustNCG | TrustKrylov | ARC | LineSearchNewtonCG):
        return NONE
    if objective.box is not None or (isinstance(settings, LineSearchNewtonCG) and settings.capped):
        return NONE
    n = objective.space.size
    if settings.recycle is not None:
        return Recycling(min(settings.recycle, n))
    recycling = Recycling(min(_RECYCLED, n))
    # A preconditioned basis has two vectors for each dimension.
    beside = 2 * min(n, _ENOUGH) if isinstance(settings, TrustKrylov | ARC) else 0
    short = recycling.num_vectors + beside > _affordable(objective)
    return NONE if preconditioned or short else recycling


def _krylov_dim(wanted: int | None, objective: Objective, recycling: Recycling) -> int:
    n = objective.space.size
    if wanted is not None:
        return min(wanted, n)
    affordable = _affordable(objective)
    if affordable < min(_LEAST, n):
        raise MemoryError(
            f"a Krylov basis of {min(_LEAST, n)} vectors takes "
            f"{readable(min(_LEAST, n) * _column(objective))}; "
            f"that is more than an eighth of the free memory on {objective.space.device}; use "
            "method='trust-ncg', or give a krylov_dim"
        )
    if recycling.num_vectors:
        affordable = max((affordable - recycling.num_vectors) // 2, _LEAST)
    return min(n, _MOST, affordable)


def _affordable(objective: Objective) -> int:
    """Vectors that a basis may have; twice as much memory is needed with a preconditioner."""
    return int(_SHARE * free_bytes(objective.space.device)) // _column(objective)


def _column(objective: Objective) -> int:
    return objective.space.size * objective.space.dtype.itemsize
