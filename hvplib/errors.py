"""The exception that is raised where no way of differentiating gives a right answer."""

from __future__ import annotations

__all__ = ["DerivativeError"]


class DerivativeError(RuntimeError):
    """No available way computes this derivative correctly.

    Raised instead of returning a number that is wrong. The message names the operation that stands in the
    way, what was tried, and what to do.

    Attributes:
        op: Name of the operation that has no (correct) second derivative, where it is known.
    """

    def __init__(self, message: str, *, op: str | None = None) -> None:
        super().__init__(message)
        self.op = op
