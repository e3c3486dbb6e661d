"""The methods of `trace` and `diagonal`, as numbers, and their names."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import get_args

from hvplib.estimate.probes import Distribution

__all__ = [
    "DIAGONAL",
    "NORM",
    "TRACE",
    "Exact",
    "HutchPP",
    "Hutchinson",
    "Method",
    "XDiag",
    "XNysTrace",
    "XTrace",
    "method_of",
]


@dataclass(frozen=True)
class Method:
    """The number that all methods share.

    Attributes:
        block_size: Vectors multiplied at a time. The estimate does not depend on it, but for rounding.
    """

    block_size: int = 8

    def __post_init__(self) -> None:
        if isinstance(self.block_size, bool) or not isinstance(self.block_size, int) or self.block_size < 1:
            raise ValueError(f"block_size must be a positive integer, got {self.block_size!r}")

    def __str__(self) -> str:
        numbers = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
        return f"{type(self).__name__}({', '.join(numbers)})"


@dataclass(frozen=True)
class Hutchinson(Method):
    """tr A = E[zᵀA z], and diag A = E[z ∘ A z]: means over independent z, for any square A.

    The error falls as 1/√m with m products; for a symmetric A the variance of one zᵀA z is
    2 (‖A‖_F² − Σ a_ii²) with "rademacher", 2 ‖A‖_F² with "normal". Needs no more memory than a block.

    Attributes:
        distribution: "rademacher", "normal" or "sphere"; see `Probes`.

    Source: Girard (1987), Un algorithme simple et rapide pour la validation croisée généralisée; Hutchinson
    (1989), 10.1080/03610918908812806; for diagonals Bekas, Kokiopoulou, Saad (2007),
    10.1016/j.apnum.2007.01.003.
    """

    distribution: Distribution = "rademacher"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distribution not in get_args(Distribution):
            names = ", ".join(map(repr, get_args(Distribution)))
            raise ValueError(f"distribution must be one of {names}, got {self.distribution!r}")


@dataclass(frozen=True)
class HutchPP(Method):
    """tr A = tr(QᵀA Q) + E[gᵀA g], g = (I − Q Qᵀ) z, with Q from a sketch A S; for a symmetric A.

    Of m products, a third make the sketch, a third A Q, and the rest samples. With a tolerance, the sketch
    grows as long as that saves more samples than it costs. For a positive semidefinite A the error falls as
    1/m, and faster where the spectrum decays.

    Source: Meyer, Musco, Musco, Woodruff (2021), 10.1137/1.9781611976496.16; Persson, Cortinovis, Kressner
    (2022), 10.1137/21M1447623, for the size of the sketch.
    """


@dataclass(frozen=True)
class XTrace(Method):
    """Mean over i of tr(Q_iᵀA Q_i) + g_iᵀA g_i, with Q_i from all vectors of the sketch but the i-th.

    Every product serves for the sketch and for the samples; for any square A. The k terms are not independent
    of each other. Their own spread would give too small an error, by up to a factor of three; what is missing
    is the covariance of two of them, which the terms t_ij that leave out j too tell without bias:
    E[(t_i − t_ij)(t_j − t_ji)]. It takes no further product. Memory: four vectors for two products.

    Source: Epperly, Tropp, Webber (2024), 10.1137/23M1548323.
    """


@dataclass(frozen=True)
class XNysTrace(Method):
    """Mean over i of tr(A_i) + z_iᵀ(A − A_i) z_i, with A_i the Nyström approximation from all z but z_i.

    For a positive semidefinite A; one product for each vector, and the error as for `XTrace`. Memory: three
    vectors, in float64, for a product.

    Source: Epperly, Tropp, Webber (2024), 10.1137/23M1548323.
    """


@dataclass(frozen=True)
class XDiag(Method):
    """Mean over i of diag(Q_i Q_iᵀA) + z_i ∘ (I − Q_i Q_iᵀ) A z_i, with Q_i from all vectors but the i-th.

    For a symmetric A, and for any square one that can be multiplied with its transpose. The error as for
    `XTrace`, entry by entry.

    Source: Epperly, Tropp, Webber (2024), 10.1137/23M1548323.
    """


@dataclass(frozen=True)
class Exact(Method):
    """All a_ii, by products with unit vectors; fewer where a pattern of A is known (`diagonal`)."""

    block_size: int = 64


TRACE: dict[str, Method] = {
    "hutchinson": Hutchinson(),
    "hutch++": HutchPP(),
    "xtrace": XTrace(),
    "xnystrace": XNysTrace(),
    "exact": Exact(),
}
DIAGONAL: dict[str, Method] = {"hutchinson": Hutchinson(), "xdiag": XDiag(), "exact": Exact()}
NORM: dict[str, Method] = {"hutchinson": Hutchinson(), "exact": Exact()}


def method_of(method: object, names: dict[str, Method]) -> Method:
    """The settings that a name stands for, or that were given.

    Raises:
        ValueError: There is no such name.
        TypeError: It is no method of this table.
    """
    if isinstance(method, str):
        if method.lower() not in names:
            raise ValueError(f"method must be one of {', '.join(map(repr, names))}, got {method!r}")
        return names[method.lower()]
    kinds = tuple(type(known) for known in names.values())
    if not isinstance(method, kinds):
        listed = ", ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"method must be a name or an instance of {listed}, got {method!r}")
    assert isinstance(method, Method)
    return method
