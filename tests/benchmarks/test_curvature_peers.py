"""What the table of curvature beside the peers measures, of the library alone: peers may be absent."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from benchmarks import curvature_peers, curvature_trials
from benchmarks.curvature_peers import least_work, product_row, rows
from benchmarks.curvature_trials import DENSITIES, EIGENVALUES, TRACES, N, density_trial, trace_trial
from benchmarks.density import CONTENDERS
from benchmarks.eigenproblems import EigenProblem, digits_operator, digits_spectrum
from benchmarks.eigensolvers import hvplib_eigsh
from benchmarks.peers import OPERATORS
from hvplib import Diagonal

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")

HUTCHINSON, EIGSH = "**hvplib** Hutchinson", "**hvplib.eigsh**"


def test_everybody_multiplies_with_an_operator_that_there_is() -> None:
    assert set(DENSITIES) <= set(CONTENDERS)
    libraries = [of for of, _ in TRACES.values()] + [of for of, _ in EIGENVALUES.values()]
    assert {*libraries, *DENSITIES.values()} == set(OPERATORS)


def test_a_product_is_held_against_the_dense_matrix() -> None:
    H = digits_operator().to_dense()
    assert H.shape == (N, N)
    assert float(product_row("hvplib", H)[0]) < 1e-14
    assert float(product_row("hvplib", H + 0.01 * torch.eye(N))[0]) > 1e-3


def test_errors_of_traces_are_those_of_chance() -> None:
    """Hutchinson's estimator has the variance 2 (‖H‖_F² − Σ h_ii²) / m (Hutchinson 1990)."""
    H = digits_operator().to_dense()
    trials = [trace_trial(HUTCHINSON, float(H.trace()), 24, seed) for seed in range(40)]
    expected = math.sqrt(2 * float(H.square().sum() - H.diagonal().square().sum()) / 24) / float(H.trace())
    found = math.sqrt(sum(trial.error**2 for trial in trials) / 40)
    assert 0.7 * expected < found < 1.4 * expected
    assert all(trial.products == 24 and trial.seconds > 0 for trial in trials)
    stated = sum(trial.stated or 0.0 for trial in trials) / 40
    assert 0.7 * expected < stated < 1.4 * expected


def test_densities_are_held_against_the_whole_spectrum() -> None:
    few, many = (density_trial("**hvplib.spectral_density**", digits_spectrum(), k, 0) for k in (1, 8))
    assert (few.products, many.products) == (80, 640)
    assert 1e-4 < many.error < few.error < 2e-3


def test_the_least_work_is_the_first_that_all_seeds_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.linspace(0, 1, 200).double() ** 4
    problem = EigenProblem("top", Diagonal(values), values[-5:], "LA", 20)
    ways = [partial(hvplib_eigsh, tolerance=tolerance) for tolerance in (1e-2, 1e-4, 1e-6, 1e-8)]
    monkeypatch.setattr(curvature_peers, "operator", lambda library: problem.operator._product)
    monkeypatch.setitem(curvature_trials.EIGENVALUES, EIGSH, ("hvplib", ways))
    index, answer = least_work(EIGSH, problem, 3)
    assert index == 2 and answer.found == 5 and answer.residual <= 1.01e-6
    monkeypatch.setitem(curvature_trials.EIGENVALUES, EIGSH, ("hvplib", ways[:1]))
    index, answer = least_work(EIGSH, problem, 3)
    assert index == 0 and 1e-6 < answer.residual < 1e-2


def test_who_is_absent_or_fails_has_a_row_that_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def row(name: str) -> list[str]:
        if name == "absent":
            import nobody_has_this  # type: ignore[import-not-found]  # noqa: F401
        raise RuntimeError("out of order\nsecond line")

    found = rows(row, ["absent", "broken"])
    assert found == {
        "absent": ["not installed (nobody_has_this)"],
        "broken": ["fails (RuntimeError: out of order"],
    }
    assert capsys.readouterr().err == "absent ...\nbroken ...\n"
