"""What results have in common: a status for each column, products by purpose, a report that reads alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

from hvplib.results.status import ConvergenceError, Status

__all__ = ["OfColumns", "Printed", "by_purpose", "settled", "worst"]


class Result(Protocol):
    """What has a status."""

    @property
    def status(self) -> Status: ...


ResultT = TypeVar("ResultT", bound=Result)

# From good to bad. What says that the problem is not what it was taken for outweighs what says that more work
# is needed.
_SEVERITY = (
    Status.CONVERGED,
    Status.EXACT,
    Status.ESTIMATED,
    Status.BOUNDARY,
    Status.STOPPED,
    Status.INTERRUPTED,
    Status.TIME_LIMIT,
    Status.MAX_ITER,
    Status.MAX_MATVECS,
    Status.STAGNATED,
    Status.INCONSISTENT,
    Status.NEGATIVE_CURVATURE,
    Status.INDEFINITE,
    Status.INDEFINITE_PRECONDITIONER,
    Status.NOT_SYMMETRIC,
    Status.NON_FINITE,
)


def worst(statuses: Iterable[Status]) -> Status:
    """The one that says most about what is wrong."""
    return max(statuses, key=_SEVERITY.index)


def by_purpose(matvecs: Mapping[str, int]) -> str:
    """Such as "11: 10 iteration, 1 confirmation"."""
    purposes = ", ".join(f"{count} {purpose}" for purpose, count in matvecs.items())
    return f"{sum(matvecs.values())}" + f": {purposes}" * bool(purposes)


def settled(result: ResultT, *, throw: bool) -> ResultT:
    """The result, unless it has to be raised.

    Raises:
        ConvergenceError: It is not what was asked for, and nobody asked to end early.
    """
    if throw and not result.status.success and not result.status.asked_for:
        raise ConvergenceError(str(result), result)
    return result


class OfColumns:
    """A result with `statuses`, one for each column."""

    statuses: tuple[Status, ...]

    @property
    def status(self) -> Status:
        """The worst over the columns."""
        return worst(self.statuses)

    @property
    def success(self) -> bool:
        """Whether every column reached what was asked for."""
        return self.status.success


class Printed(ABC):
    """A result with `status` and `matvecs`, which prints as a head and named rows."""

    status: Any
    matvecs: Mapping[str, int]

    @property
    def num_matvecs(self) -> int:
        """Products in all, one for each column."""
        return sum(self.matvecs.values())

    def __str__(self) -> str:
        rows = (f"  {name:<10} {text}" for name, text in self._rows() if text)
        return "\n".join([self._head(), *rows])

    __repr__ = __str__

    def _head(self) -> str:
        return str(self.status)

    @abstractmethod
    def _rows(self) -> list[tuple[str, str]]:
        """Names and texts; what has no text is left out."""
