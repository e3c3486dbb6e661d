"""The exceptions of the library."""

from __future__ import annotations

__all__ = ["DerivativeError", "OutputError", "TraceError"]


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


class OutputError(TypeError, RuntimeError):
    """The function to differentiate returned something that is not what it must return.

    It is a TypeError by nature and a RuntimeError because `torch.func` raises that, so that code written for
    either keeps working.
    """


class TraceError(RuntimeError):
    """A computation cannot be recorded and run again; the message says why. It never leaves the library."""
