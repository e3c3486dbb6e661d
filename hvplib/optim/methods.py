"""The methods of `minimize`, as numbers, and their names."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["NAMES", "Method", "TrustExact", "TrustKrylov", "TrustNCG", "TrustRegionMethod", "method_of"]


@dataclass(frozen=True)
class Method:
    """What all methods share: nothing but that they are one."""


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
    """Conjugate gradients in a ball (Steihaug 1983): memory of a few vectors.

    Attributes:
        max_cg_iter: Most products for a step; n if None.
    """

    max_cg_iter: int | None = None


@dataclass(frozen=True)
class TrustKrylov(TrustRegionMethod):
    """The model minimised over a Krylov space to optimality, hard case included (Gould et al. 1999).

    Attributes:
        krylov_dim: Largest dimension of the space, whose basis is stored; min(n, 200) if None.
    """

    krylov_dim: int | None = None


@dataclass(frozen=True)
class TrustExact(TrustRegionMethod):
    """The model minimised exactly, with the whole Hessian: n products a step, for small n."""


NAMES: dict[str, type[Method]] = {
    "trust-ncg": TrustNCG,
    "trust-krylov": TrustKrylov,
    "trust-exact": TrustExact,
}


def method_of(method: Method | str) -> Method:
    """The settings that a name stands for; settings as they are."""
    if isinstance(method, Method):
        return method
    if method not in NAMES:
        raise ValueError(
            f"method must be one of {', '.join(map(repr, NAMES))} or settings of one, got {method!r}"
        )
    return NAMES[method]()
