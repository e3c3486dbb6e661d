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
from hvplib.optim.methods import ARC, Auto, LineSearchMethod, Method, TrustExact, TrustKrylov, TrustNCG
from hvplib.optim.preconditioning import Preconditioning
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


def chosen(settings: Method, objective: Objective, *, preconditioned: bool) -> Method:
    """What "auto" stands for here; other settings as they are."""
    if not isinstance(settings, Auto):
        return settings
    n = objective.space.size
    if n <= _SMALL and not preconditioned:
        return TrustExact()
    return TrustKrylov() if _affordable(objective) >= min(n, _ENOUGH) else TrustNCG()


def built(settings: Method, objective: Objective, precondition: Preconditioning, random: Random) -> Advance:
    """What makes the steps of this method.

    Raises:
        MemoryError: What it stores does not fit.
    """
    if isinstance(settings, TrustExact):
        check_storable(objective.space.size)
        return TrustRegion(objective, settings, lambda point, rtol: Exact(point))
    if isinstance(settings, TrustKrylov):
        krylov_dim = _krylov_dim(settings.krylov_dim, objective)
        model = _krylov(settings.boundary_rtol, krylov_dim, precondition, random)
        return TrustRegion(objective, settings, model)
    if isinstance(settings, ARC):
        model = _krylov(0.0, _krylov_dim(settings.krylov_dim, objective), precondition, random)
        return CubicRegularisation(objective, settings, model, initial_length=settings.initial_length)
    if isinstance(settings, TrustNCG):
        max_iter = settings.max_cg_iter or objective.space.size
        if objective.box is None:
            return TrustRegion(objective, settings, _steihaug(max_iter, precondition))
        return TrustRegion(objective, settings, _bounded(objective.box, max_iter, precondition))
    if isinstance(settings, LineSearchMethod):
        return Descent(objective, settings, directions(settings, objective, precondition))
    raise TypeError(f"no way is known to run {settings!r}")


def _steihaug(max_iter: int, precondition: Preconditioning) -> Callable[[Point, float], Space]:
    return lambda point, rtol: Steihaug(point, rtol, max_iter=max_iter, precondition=precondition(point))


def _bounded(box: Box, max_iter: int, precondition: Preconditioning) -> Callable[[Point, float], Space]:
    return lambda point, rtol: BoundedSteihaug(
        point, box, rtol, max_iter=max_iter, precondition=precondition(point)
    )


def _krylov(
    boundary_rtol: float, krylov_dim: int, precondition: Preconditioning, random: Random
) -> Callable[[Point, float], KrylovModel]:
    return lambda point, rtol: KrylovModel(
        point,
        rtol,
        boundary_rtol=boundary_rtol,
        krylov_dim=krylov_dim,
        precondition=precondition(point),
        random=random,
    )


def _krylov_dim(wanted: int | None, objective: Objective) -> int:
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
    return min(n, _MOST, affordable)


def _affordable(objective: Objective) -> int:
    """Vectors that a basis may have; twice as much memory is needed with a preconditioner."""
    return int(_SHARE * free_bytes(objective.space.device)) // _column(objective)


def _column(objective: Objective) -> int:
    return objective.space.size * objective.space.dtype.itemsize
