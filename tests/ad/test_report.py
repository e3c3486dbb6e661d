"""Reports are values, and read well."""

from __future__ import annotations

import dataclasses

import pytest

from hvplib.ad.report import Attempt, Check, Report


@pytest.mark.parametrize(("passed", "word"), [(True, "ok"), (False, "FAILED"), (None, "inconclusive")])
def test_a_check(passed: bool | None, word: str) -> None:
    check = Check("symmetry", 1.2e-9, 1e-8, passed)
    assert str(check) == f"symmetry: {word} (relative error 1.2e-09, tolerance 1e-08)"
    assert str(dataclasses.replace(check, detail="why")) == f"{check}; why"


def test_a_report() -> None:
    assert str(Report("way")) == "strategy: way"
    full = Report("way", (Attempt("other", "no rule"),), ("a", "b"), (Check("c", 0.0, 1.0, True),))
    assert str(full).splitlines() == [
        "strategy: way",
        "  gave up other: no rule",
        "  remedies: a, b",
        "  check c: ok (relative error 0.0e+00, tolerance 1e+00)",
    ]


@pytest.mark.parametrize("value", [Attempt("a", "b"), Check("c", 0.0, 1.0, None), Report("d")])
def test_reports_are_frozen_and_compare_by_value(value: object) -> None:
    assert value == dataclasses.replace(value)  # type: ignore[type-var]
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.detail = "new"  # type: ignore[attr-defined]
