"""The classical unconstrained problems by their names in CUTEst, with their standard sizes and starts."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.problems.large import LARGE
from benchmarks.problems.minimisation import Minimisation
from benchmarks.problems.small import SMALL

__all__ = ["CLASSICAL"]

CLASSICAL: dict[str, Callable[[], Minimisation]] = {**SMALL, **LARGE}
