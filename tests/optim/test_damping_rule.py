"""Levenberg's and Marquardt's rule, by hand."""

from __future__ import annotations

import math

import pytest

from hvplib.optim.damping_rule import factor, reduction_ratio

EPS = 2.0**-52


@pytest.mark.parametrize(
    ("before", "after", "predicted", "expected"),
    [
        (3.0, 2.0, 4.0, 0.25),
        (3.0, 4.0, 0.5, -2.0),
        (3.0, math.nan, 1.0, -math.inf),
        (3.0, math.inf, 1.0, -math.inf),
        (3.0, 2.0, 0.0, -math.inf),  # the model foretold no decrease
        (3.0, 2.0, -1.0, -math.inf),
        (3.0, 3.0, 30 * EPS, None),  # hidden by rounding: 10 eps |f| = 30 eps
    ],
)
def test_ratio(before: float, after: float, predicted: float, expected: float | None) -> None:
    assert reduction_ratio(before, after, predicted, EPS) == expected


def test_a_decrease_just_above_the_rounding_counts() -> None:
    assert reduction_ratio(3.0, 3.0, 31 * EPS, EPS) == 0.0


@pytest.mark.parametrize(
    ("ratio", "accepted", "expected"),
    [
        (0.2, True, 3 / 2),
        (0.25, True, 1.0),
        (0.75, True, 1.0),
        (0.8, True, 2 / 3),
        (2.0, True, 2 / 3),
        (-1.0, False, 4.0),
        (0.1, False, 4.0),  # not enough for the line search
        (-math.inf, False, 4.0),
        (None, True, 1.0),
        (None, False, 1.0),
    ],
)
def test_factor(ratio: float | None, accepted: bool, expected: float) -> None:
    assert factor(ratio, accepted) == expected
