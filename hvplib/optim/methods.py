"""The methods of `minimize`, as numbers, and their names."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = [
    "ARC",
    "NAMES",
    "Auto",
    "LineSearchMethod",
    "LineSearchNewtonCG",
    "Method",
    "NewtonMR",
    "TrustExact",
    "TrustKrylov",
    "TrustNCG",
    "TrustRegionMethod",
    "method_of",
]


@dataclass(frozen=True)
class Method:
    """What all methods share: nothing but that they are one."""


@dataclass(frozen=True)
class Auto(Method):
    """The method that suits the problem.

    `TrustExact` up to 64 unknowns, without a preconditioner; for more `TrustKrylov`, or `TrustNCG` where a
    basis of 200 vectors takes more than an eighth of the free memory; `TrustNCG` with bounds.
    """


@dataclass(frozen=True)
class TrustRegionMethod(Method):
    """The numbers of a trust region.

    Attributes:
        initial_radius: The first Δ;
        max_radius: The largest.
    """

    initial_radius: float = 1.0
    max_radius: float = math.inf

    def __post_init__(self) -> None:
        for name in ("initial_radius", "max_radius"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class TrustNCG(TrustRegionMethod):
    """Conjugate gradients in a ball (Steihaug 1983): memory of a few vectors, and of what is recycled.

    Attributes:
        max_cg_iter: Most products for a step; n if None.
        recycle: Directions that a step leaves to the next, each with its product: they precondition it, and
            its ball is measured in the norm of that preconditioner. Memory of four vectors each. If None, 20
            where an eighth of the free memory holds them, else none; none with bounds or a preconditioner.
    """

    max_cg_iter: int | None = None
    recycle: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_recycle(self.recycle)


@dataclass(frozen=True)
class TrustKrylov(TrustRegionMethod):
    """The model minimised over a Krylov space to optimality, hard case included (Gould et al. 1999).

    Attributes:
        krylov_dim: Largest dimension of the space, whose basis is stored; if None, n, 500, or
            what an eighth of the free memory holds, whichever is least.
        boundary_rtol: ‖∇f + (∇²f + μM) s‖ ≤ boundary_rtol ‖∇f‖ ends the growth of the space for a step to the
            boundary of the ball; of the others, forcing terms decide.
        recycle: As of `TrustNCG`. With it, two vectors are stored for each dimension of the space.
    """

    krylov_dim: int | None = None
    boundary_rtol: float = 0.5
    recycle: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_recycle(self.recycle)


@dataclass(frozen=True)
class TrustExact(TrustRegionMethod):
    """The model minimised exactly, with the whole Hessian: n products a step, for small n."""


@dataclass(frozen=True)
class ARC(Method):
    """The model with a cubic term, over a Krylov space: adaptive cubic regularisation (Cartis et al. 2011).

    Attributes:
        initial_length: The cubic term is at first such that the step is at most so long.
        krylov_dim, recycle: As of `TrustKrylov`.
    """

    initial_length: float = 1.0
    krylov_dim: int | None = None
    recycle: int | None = None

    def __post_init__(self) -> None:
        _check_recycle(self.recycle)
        if not self.initial_length > 0:
            raise ValueError(f"initial_length must be positive, got {self.initial_length!r}")


@dataclass(frozen=True)
class LineSearchMethod(Method):
    """The numbers of a method with a line search.

    Attributes:
        line_search: What a Newton step has to bring: "armijo", a sufficient decrease, or "wolfe", the strong
            conditions. Along negative curvature a search goes on in either case.
        max_inner_iter: Most products for a direction; n if None.
    """

    line_search: str = "armijo"
    max_inner_iter: int | None = None

    def __post_init__(self) -> None:
        if self.line_search not in ("armijo", "wolfe"):
            raise ValueError(f"line_search must be 'armijo' or 'wolfe', got {self.line_search!r}")
        if self.max_inner_iter is not None and not self.max_inner_iter > 0:
            raise ValueError(f"max_inner_iter must be positive or None, got {self.max_inner_iter!r}")


@dataclass(frozen=True)
class LineSearchNewtonCG(LineSearchMethod):
    """Conjugate gradients and a line search, also along negative curvature: memory of a few vectors.

    Attributes:
        recycle: Directions that a step leaves to the next, each with its product, to precondition it. Memory
            of four vectors each. If None, 20 where an eighth of the free memory holds them, else none; none
            with a preconditioner, or with `capped`.
        capped: Whether directions are those of Royer, O'Neill and Wright (2020). They solve with ∇²f + 2ε,
            and take curvature below −ε for negative; the end is slow where ∇²f has eigenvalues well below ε.
            Damped steps are always searched by the strong Wolfe conditions.
        strict: With `capped`, whether to solve as precisely as they do, at ten times the products. They
            prove, with a line search by cubes of the length, that Õ(ε^(−7/2)) products lead to a point with
            ‖∇f‖ ≤ ε² and no curvature below −ε, where ∇²f is Lipschitz continuous.
        curvature_tol: ε; in units of the curvature of f.
    """

    recycle: int | None = None
    capped: bool = False
    strict: bool = False
    curvature_tol: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_recycle(self.recycle)
        if self.recycle and self.capped:
            raise ValueError(
                "recycle must be None or 0 with capped=True, whose bounds hold for the plain iteration only; "
                f"got {self.recycle}"
            )
        if self.strict and not self.capped:
            raise ValueError("strict=True is of use with capped=True only; set both, or neither")
        if not self.curvature_tol > 0:
            raise ValueError(f"curvature_tol must be positive, got {self.curvature_tol!r}")


@dataclass(frozen=True)
class NewtonMR(LineSearchMethod):
    """Minimal residuals and a line search, also along negative curvature (Liu, Roosta 2022)."""


NAMES: dict[str, type[Method]] = {
    "auto": Auto,
    "trust-ncg": TrustNCG,
    "trust-krylov": TrustKrylov,
    "trust-exact": TrustExact,
    "arc": ARC,
    "newton-cg": LineSearchNewtonCG,
    "newton-mr": NewtonMR,
}


def _check_recycle(recycle: int | None) -> None:
    whole = isinstance(recycle, int) and not isinstance(recycle, bool)
    if recycle is not None and not (whole and recycle >= 0):
        raise ValueError(f"recycle must be an integer, at least 0, or None, got {recycle!r}")


def method_of(method: Method | str) -> Method:
    """The settings that a name stands for; settings as they are."""
    if isinstance(method, Method):
        return method
    if method not in NAMES:
        raise ValueError(
            f"method must be one of {', '.join(map(repr, NAMES))} or settings of one, got {method!r}"
        )
    return NAMES[method]()
