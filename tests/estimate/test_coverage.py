"""The promise: no bias, honest standard errors, and 95 % intervals that hold the truth in 93 to 97 %.

Of 1000 seeds that hold it with probability p, the count strays by 0.7 % about p: where p is 95 %, a measured
93 to 97 % is within three standard deviations. What is known to lie outside is named here, and why.
"""

from __future__ import annotations

import pytest

from hvplib.estimate.trace import trace
from tests.estimate.spectra import INDEFINITE, SPECTRA, coverage, with_spectrum

METHODS = ["hutchinson", "hutch++", "xtrace", "xnystrace"]
# Vectors: 16 and more, but for n = 20, where the sketches would see everything.
PRODUCTS = {
    "hutchinson": {20: 16, 100: 32, 500: 48},
    "hutch++": {20: 30, 100: 60, 500: 90},
    "xtrace": {20: 16, 100: 32, 500: 48},
    "xnystrace": {20: 16, 100: 32, 500: 48},
}


def expected(name: str, n: int, method: str) -> tuple[float, float]:
    """The coverage that is promised."""
    if name == "low rank" and method != "hutchinson":
        return 0.97, 1.0  # exact: the error is rounding, and the interval an allowance for it
    if (name, n, method) == ("step", 100, "xtrace"):
        return 0.95, 0.995  # the sketch has just passed the step: wide, and said to be so
    if (name, method) == ("exponential", "xtrace"):
        return 0.93, 0.985  # the variance halves with each vector: so here, in about half of the seeds
    if method == "xtrace" and n == 20:
        return 0.93, 0.985  # eight terms only
    return 0.93, 0.97


def measured(name: str, n: int, method: str, seeds: int, **options: float) -> tuple[float, float, float]:
    A = with_spectrum(name, n)
    settings = {"max_matvecs": PRODUCTS[method][n], **options}
    truth = float(SPECTRA[name](n).sum())
    return coverage(
        lambda seed: trace(A, method=method, generator=seed, throw=False, **settings),  # type: ignore[arg-type]
        truth,
        seeds,
    )


# One of each kind where seeds are dear.
KINDS = ("flat", "power 1", "exponential", "step", "indefinite")


def cases() -> list[tuple[str, str, int]]:
    return [
        (name, method, n)
        for n in (20, 100, 500)
        for name in (SPECTRA if n < 500 else KINDS)
        for method in METHODS
        if not (method == "xnystrace" and name in INDEFINITE)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method", "n"), cases())
def test_intervals_hold_what_they_say(name: str, method: str, n: int) -> None:
    held, bias, honesty = measured(name, n, method, 1000)
    low, high = expected(name, n, method)
    assert low <= held <= high
    if name != "low rank":
        assert abs(bias) < 4
        assert 0.75 < honesty < 6  # of steep spectra the mean is made by few seeds


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("power 1", "hutchinson"),
        ("exponential", "hutch++"),
        ("slow exponential", "xtrace"),
        ("step", "xnystrace"),
    ],
)
def test_a_share_of_it(name: str, method: str) -> None:
    held, bias, honesty = measured(name, 100, method, 300)
    assert 0.91 <= held <= 0.985  # three standard deviations of 300
    assert abs(bias) < 4 and 0.8 < honesty < 1.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method", "rtol"),
    [
        ("flat", "hutchinson", 0.1),
        ("power 1", "hutchinson", 0.1),
        ("power 1", "hutchinson", 0.2),
        ("exponential", "hutchinson", 0.2),
        ("power 1", "hutch++", 0.03),
        ("slow exponential", "hutch++", 0.03),
        ("power 1", "xtrace", 0.03),
        ("slow exponential", "xtrace", 0.02),
        ("power 1", "xnystrace", 0.03),
        ("slow exponential", "xnystrace", 0.02),
    ],
)
def test_stopping_early_does_not_cost_it(name: str, method: str, rtol: float) -> None:
    held, _, _ = measured(name, 100, method, 1000, rtol=rtol, max_matvecs=100_000)
    # Where all seeds end at the same look, none is chosen, and the higher confidence is too much of it.
    assert 0.93 <= held <= 0.985


def test_the_covariance_is_not_left_out() -> None:
    """Without it the intervals of these would hold the truth in about 60 % of all cases."""
    held, _, honesty = measured("exponential", 100, "xnystrace", 200)
    assert held > 0.9 and honesty > 0.8
