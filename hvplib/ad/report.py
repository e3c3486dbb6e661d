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
    """The way that gave the answer, the ways that did not, the remedies in force and the checks made."""

    strategy: str
    attempts: tuple[Attempt, ...] = ()
    remedies: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()

    def __str__(self) -> str:
        lines = [f"strategy: {self.strategy}"]
        lines += [f"  gave up {attempt}" for attempt in self.attempts]
        if self.remedies:
            lines.append(f"  remedies: {', '.join(self.remedies)}")
        lines += [f"  check {check}" for check in self.checks]
        return "\n".join(lines)
