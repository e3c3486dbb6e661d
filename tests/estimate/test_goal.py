"""Tolerances and confidences."""

from __future__ import annotations

import math

import pytest

from hvplib.estimate.goal import Goal


def test_tolerance_is_the_larger_of_both() -> None:
    assert Goal(rtol=0.1, atol=3.0).tolerance(-20.0) == 3.0
    assert Goal(rtol=0.1, atol=1.0).tolerance(-20.0) == 2.0
    assert Goal(atol=1.0).tolerance(-20.0) == 1.0
    assert Goal(rtol=0.0).tolerance(5.0) == 0.0
    assert Goal().tolerance(5.0) == math.inf


def test_asks() -> None:
    assert not Goal().asks and Goal(rtol=0.0).asks and Goal(atol=0.0).asks


def test_numbers_out_of_range_are_refused() -> None:
    for bad in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="rtol must be at least 0 and finite, or None, got"):
            Goal(rtol=bad)
        with pytest.raises(ValueError, match="atol must be at least 0 and finite, or None, got"):
            Goal(atol=bad)
    for bad in (0.0, 1.0, 95.0, math.nan):
        with pytest.raises(ValueError, match=r"confidence must lie between 0 and 1, such as 0.95, got"):
            Goal(confidence=bad)
