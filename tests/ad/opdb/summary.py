"""Counts and lists of verdicts as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.ad.opdb.verdicts import VERDICTS, Verdict


def judged(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return [v for v in verdicts if v.verdict != "unjudged"]


def share_right(verdicts: Sequence[Verdict]) -> float:
    counted = judged(verdicts)
    return sum(v.verdict == "right" for v in counted) / max(len(counted), 1)


def one_line(verdicts: Sequence[Verdict]) -> str:
    """`782 units: 777 right (99.4 %), 0 wrong, 0 nan, 5 refused, ...`."""
    count = Counter(v.verdict for v in verdicts)
    others = ("wrong", "nan", "refused", "raised", "died", "unjudged")
    rest = ", ".join(f"{count[name]} {name}" for name in others)
    samples = sum(v.judged for v in verdicts)
    seconds = sum(v.seconds for v in verdicts)
    return (
        f"{len(judged(verdicts))} units: {count['right']} right ({100 * share_right(verdicts):.1f} %), "
        f"{rest}; "
        f"{samples} samples, {seconds:.0f} s of work"
    )


def listing(verdicts: Sequence[Verdict], *, notes: bool = False) -> str:
    """Every unit that is not right, the worst first."""
    lines = []
    for verdict in sorted(verdicts, key=lambda v: (-VERDICTS.index(v.verdict), v.unit)):
        if verdict.verdict != "right" or (notes and verdict.notes):
            lines.append(f"{verdict.verdict:9} {verdict.unit}: {verdict.detail}")
            lines += [f"            {note}" for note in verdict.notes] if notes else []
    return "\n".join(lines)
