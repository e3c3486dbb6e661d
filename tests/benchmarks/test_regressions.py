"""How fits are scored against certified answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.problems import NIST, Regression
from benchmarks.regressions import CONTENDERS, Fit, Score, attempt, digits, standard_errors, summary


def test_digits_of_the_worst_entry() -> None:
    certified = np.array([2.0, -3e-6, 5e7])
    assert digits(certified * [1 + 1e-9, 1 - 1e-4, 1], certified) == pytest.approx(4, abs=1e-6)
    assert digits(certified, certified) == 11
    assert digits(certified * (1 + 1e-14), certified) == 11
    assert digits(-certified, certified) == 0
    assert digits(np.array([2.0, np.nan, 1.0]), certified) == 0


@pytest.mark.parametrize("name", NIST)
def test_standard_errors_at_the_certified_parameters(name: str) -> None:
    regression = NIST[name]
    errors = standard_errors(regression, regression.parameters.numpy())
    assert digits(errors, regression.deviations.numpy()) > 9


def certified(regression: Regression, start: int) -> Fit:
    return Fit(regression.parameters.numpy(), regression.deviations.numpy(), True, 7)


def elsewhere(regression: Regression, start: int) -> Fit:
    return Fit(2 * regression.parameters.numpy(), regression.deviations.numpy(), start == 1, 5)


def failing(regression: Regression, start: int) -> Fit:
    raise FloatingPointError(regression.name)


def test_scores_and_their_summary() -> None:
    regression = NIST["BoxBOD"]
    scores = {
        who.__name__: {str(start): attempt(who, regression, start) for start in (1, 2)}
        for who in (certified, elsewhere, failing)
    }
    assert str(scores["certified"]["1"]) == "11.0 / 11.0"
    assert str(scores["elsewhere"]["1"]) == "elsewhere, **claims success**"
    assert str(scores["elsewhere"]["2"]) == "elsewhere"
    assert scores["failing"]["1"] == "FloatingPointError"
    rows = summary(scores).splitlines()[2:]
    assert rows[0].startswith("| certified | 2 of 2 | 2 | 0 | 14 |")
    assert rows[1].startswith("| elsewhere | 0 of 2 | 0 | 1 | 10 |")
    assert rows[2].startswith("| failing | 0 of 2 | 0 | 0 | 0 |")


@pytest.mark.parametrize("who", ["**hvplib levenberg-marquardt**", "SciPy least_squares, lm"])
def test_contenders_from_the_second_start(who: str) -> None:
    torch.manual_seed(0)
    score = attempt(CONTENDERS[who], NIST["DanWood"], 2)
    assert isinstance(score, Score) and score.enough and score.success and 1 < score.evaluations < 50
