"""Pictures: what is drawn is what was found, into the axes given, with matplotlib's settings left alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from hvplib import Diagonal, HessianOperator, Progress, diagonal, eigsh, minimize, spectral_density, trace
from hvplib.plots import (
    draw_bars,
    draw_convergence,
    draw_density,
    draw_estimate,
    draw_minimization,
    draw_slice,
    layer_curvature,
    loss_slice,
)

A = Diagonal(torch.cat([torch.linspace(0.1, 1, 300), torch.tensor([3.0, 4.0])]).double())
POINT = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double(), "b": torch.ones(2).double()}


def quadratic(p: Any) -> torch.Tensor:
    return (p["a"] ** 2).sum() - 3 * (p["b"] ** 2).sum() + p["a"].sum() * p["b"].sum()


H = HessianOperator(quadratic, POINT)
STEPS: list[Progress] = []
PAIRS = eigsh(A, 2, which="LA", method="lanczos", callback=STEPS.append)

DRAWN: dict[str, Callable[[Any], Any]] = {
    "density": lambda ax: draw_density(spectral_density(A), ax, eigenvalues=PAIRS),
    "density, log": lambda ax: draw_density(spectral_density(A, scale="log"), ax, scale="linear"),
    "residuals of a result": lambda ax: draw_convergence(PAIRS, ax),
    "residuals of lobpcg": lambda ax: draw_convergence(eigsh(A, 2, method="lobpcg"), ax),
    "residuals of arpack": lambda ax: draw_convergence(eigsh(A, 2, method="arpack"), ax),
    "residuals of steps": lambda ax: draw_convergence(STEPS, ax),
    "Ritz values of steps": lambda ax: draw_convergence(STEPS, ax, what="values"),
    "trace": lambda ax: draw_estimate(trace(A, method="hutchinson"), ax),
    "exact trace": lambda ax: draw_estimate(trace(A, method="exact", max_matvecs=400), ax),
    "diagonal": lambda ax: draw_estimate(diagonal(A, method="hutchinson"), ax),
    "minimization": lambda ax: draw_minimization(minimize(lambda x: ((x - 1) ** 4).sum(), np.zeros(3)), ax),
    "one slice": lambda ax: draw_slice(loss_slice(H, num_points=5), ax),
    "two slices": lambda ax: draw_slice(loss_slice(H, num_directions=2, num_points=5), ax),
    "bars": lambda ax: draw_bars(layer_curvature(H), ax),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_into_the_axes_given_and_leaves_the_settings(name: str) -> None:
    before = dict(mpl.rcParams)
    ax = Figure().subplots()
    assert DRAWN[name](ax) is ax
    assert ax.has_data() and ax.get_xlabel()
    ax.figure.canvas.draw()  # with every text and marker
    assert dict(mpl.rcParams) == before


def test_makes_axes_where_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot

    ax = draw_bars({"a": 1.0})
    assert ax.figure.number in pyplot.get_fignums()
    pyplot.close(ax.figure)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"a picture needs matplotlib: `pip install hvplib\[plots\]`"):
        draw_bars({"a": 1.0})


def test_a_density_shows_its_curve_and_the_eigenvalues() -> None:
    found = spectral_density(A, outliers=2, method="slq", num_probes=2, krylov_dim=20)
    ax = draw_density(found, Figure().subplots(), eigenvalues=[3.5])
    curve, low, high, marks = ax.get_lines()
    np.testing.assert_array_equal(curve.get_xdata(), found.grid.numpy())
    shown = np.maximum(found.density.numpy(), 1e-8 * float(found.density.max()))
    np.testing.assert_allclose(curve.get_ydata(), shown)
    np.testing.assert_allclose(marks.get_xdata(), [3, 3.5, 4])
    spread = found.density + 2 * found.density_stderr
    np.testing.assert_allclose(np.nanmax(high.get_ydata()), float(spread.max()))
    assert np.nanmax(low.get_ydata()) < np.nanmax(curve.get_ydata())
    assert ax.get_yscale() == "log"
    with pytest.raises(ValueError, match='scale must be "log" or "linear"'):
        draw_density(found, Figure().subplots(), scale="cubic")


def test_on_a_logarithmic_axis_negative_eigenvalues_are_no_ticks() -> None:
    ax = draw_density(spectral_density(A, scale="log"), Figure().subplots(), eigenvalues=[-1.0, 2.0])
    assert ax.get_xscale() == "log" and ax.get_lines()[-1].get_xdata().tolist() == [2.0]


def test_convergence_shows_the_history() -> None:
    curve = draw_convergence(PAIRS, Figure().subplots()).get_lines()[0]
    np.testing.assert_array_equal(curve.get_xdata(), PAIRS.history[:, 0])
    np.testing.assert_array_equal(curve.get_ydata(), PAIRS.history[:, 2])
    lines = draw_convergence(STEPS, Figure().subplots(), what="values").get_lines()
    assert len(lines) == 2 and lines[0].get_ydata()[-1] == pytest.approx(4, abs=1e-6)
    with pytest.raises(ValueError, match=r"pass callback=steps\.append to eigsh"):
        draw_convergence(PAIRS, Figure().subplots(), what="values")
    with pytest.raises(ValueError, match="at least one Progress"):
        draw_convergence([], Figure().subplots())
    with pytest.raises(ValueError, match="it is of a linear system"):
        draw_convergence([Progress(1, 1, torch.ones(1))], Figure().subplots(), what="values")
    with pytest.raises(ValueError, match='"residuals" or "values", got \'rest\''):
        draw_convergence(PAIRS, Figure().subplots(), what="rest")


def test_bars_are_the_values_with_their_errors() -> None:
    ax = draw_bars({"a": (2.0, 0.5), "b": -1.0}, Figure().subplots(), label="top")
    assert [bar.get_width() for bar in ax.patches] == [2.0, -1.0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"] and ax.get_xlabel() == "top"
    assert ax.patches[1].get_hatch() and not ax.patches[0].get_hatch(), "apart without colours"
    with pytest.raises(ValueError, match="at least one bar"):
        draw_bars({}, Figure().subplots())
