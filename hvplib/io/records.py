"""The classes that a file may hold, by their names. Nothing else is ever made of what a file says."""

from __future__ import annotations

from enum import Enum
from importlib import import_module
from typing import Any

__all__ = ["class_named", "name_of"]

# Where each is defined; imported when a file holds one.
_HOMES = {
    "hvplib.eigen.arpack": "ARPACK",
    "hvplib.eigen.lobpcg": "LOBPCG",
    "hvplib.eigen.methods": "Dense Lanczos",
    "hvplib.eigen.result": "EigenResult",
    "hvplib.estimate.diagonal": "DiagonalEstimate",
    "hvplib.estimate.methods": "Exact HutchPP Hutchinson XDiag XNysTrace XTrace",
    "hvplib.linear.methods": "CG MINRES MINRESQLP",
    "hvplib.optim.ending": "Ending",
    "hvplib.optim.fit_methods": "GaussNewton LevenbergMarquardt",
    "hvplib.optim.fit_result": "LeastSquaresResult Statistics",
    "hvplib.optim.methods": "ARC Auto LineSearchNewtonCG NewtonMR TrustExact TrustKrylov TrustNCG",
    "hvplib.optim.run": "History Iterate",
    "hvplib.optim.squares": "Factor",
    "hvplib.results": "Estimate SingularResult Solution Status",
    "hvplib.results.density": "SpectralDensity",
    "scipy.optimize": "OptimizeResult",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def name_of(value: Any) -> str | None:
    """The name under which a value of this very class is kept; None if there is none."""
    name = type(value).__name__
    return name if name in _HOME and class_named(name) is type(value) else None


def class_named(name: str) -> type[Any] | None:
    """The class of this name; None if there is none."""
    if name not in _HOME:
        return None
    found: type[Any] = getattr(import_module(_HOME[name]), name)
    return found


def is_enum(kind: type[Any]) -> bool:
    """Whether its values are kept by their names."""
    return issubclass(kind, Enum)
