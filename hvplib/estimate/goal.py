"""How near an estimate has to come, and with what confidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Goal"]


@dataclass(frozen=True)
class Goal:
    """|estimate − truth| ≤ max(rtol |estimate|, atol), with this confidence.

    Attributes:
        rtol, atol: None asks for nothing: the products allowed are spent, and what they give is stated.
        confidence: Probability that the stated interval holds the truth.

    Example:
        >>> Goal(rtol=0.1, confidence=0.99).tolerance(-20.0)
        2.0
    """

    rtol: float | None = None
    atol: float | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name, tolerance in (("rtol", self.rtol), ("atol", self.atol)):
            if tolerance is not None and not 0 <= tolerance < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, or None, got {tolerance!r}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, got {self.confidence!r}")

    @property
    def asks(self) -> bool:
        """Whether there is a tolerance."""
        return self.rtol is not None or self.atol is not None

    def tolerance(self, size: float) -> float:
        """The error allowed beside an estimate of this size; infinite if none was asked for."""
        return max((self.rtol or 0.0) * abs(size), self.atol or 0.0) if self.asks else math.inf
