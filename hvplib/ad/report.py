"""What was done to get a product, and what speaks for it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Attempt", "Check", "Report"]


@dataclass(frozen=True)
class Attempt:
    """A way of differentiating that was tried and given up, with the reason."""

    strategy: str
    reason: str

    def __str__(self) -> str:
        return f"{self.strategy}: {self.reason}"


@dataclass(frozen=True)
class Check:
    """One comparison: a relative error, the tolerance it is held to, and what follows.

    `passed` is None where the comparison cannot tell (a kink, rounding, a step too coarse).
    """

    name: str
    error: float
    tolerance: float
    passed: bool | None
    detail: str = ""

    def __str__(self) -> str:
        verdict = {True: "ok", False: "FAILED", None: "inconclusive"}[self.passed]
        text = f"{self.name}: {verdict} (relative error {self.error:.1e}, tolerance {self.tolerance:.0e})"
        return f"{text}; {self.detail}" if self.detail else text


@dataclass(frozen=True)
class Report:
    """What was done to get products, and what speaks for it.

    Attributes:
        strategy: The way that gave them.
        attempts: The ways that did not.
        remedies: What was put in the place of operations.
        checks: The comparisons made.
        recorded: Whether products are run from a record by now, which changes their cost and none of their
            bits.
    """

    strategy: str
    attempts: tuple[Attempt, ...] = ()
    remedies: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    recorded: bool = False

    def __str__(self) -> str:
        lines = [f"strategy: {self.strategy}{', run from a record' if self.recorded else ''}"]
        lines += [f"  gave up {attempt}" for attempt in self.attempts]
        if self.remedies:
            lines.append(f"  remedies: {', '.join(self.remedies)}")
        lines += [f"  check {check}" for check in self.checks]
        return "\n".join(lines)
