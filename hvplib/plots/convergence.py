"""How iterations went: eigenvalues, estimates and minimisations over the products spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hvplib.plots.style import ACCENT, BULK, INK, PALE, axes_or_new, bare

if TYPE_CHECKING:
    from hvplib.eigen.result import EigenResult
    from hvplib.results.estimate import Estimate
    from hvplib.results.status import Progress

__all__ = ["draw_convergence", "draw_estimate", "draw_minimization"]

_STYLES = ["-", "--", "-.", ":"]


def draw_convergence(
    found: EigenResult | Sequence[Progress], ax: Any = None, *, what: str = "residuals"
) -> Any:
    """Residuals, or Ritz values, over the products spent.

    Args:
        found: What `eigsh` returned; or the `Progress` of each step, as its callback was told them
            (`callback=steps.append`), which has every pair's own values.
        ax: Axes to draw into; a new figure's by default.
        what: "residuals", or "values" for the Ritz values, which only the `Progress` of steps have.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `what` is neither, or not in `found`, or there is nothing to draw.
    """
    if what not in ("residuals", "values"):
        raise ValueError(f'what must be "residuals" or "values", got {what!r}')
    ax = axes_or_new(ax)
    if isinstance(found, Sequence):
        _draw_steps(ax, found, what)
    else:
        _draw_result(ax, found, what)
    ax.set_xlabel("products")
    bare(ax)
    return ax


def _draw_steps(ax: Any, steps: Sequence[Progress], what: str) -> None:
    if not steps:
        raise ValueError("found must hold at least one Progress, got none")
    products = [step.num_matvecs for step in steps]
    curves = [step.values if what == "values" else step.residual_norms for step in steps]
    if any(curve is None for curve in curves):
        raise ValueError("found has no Ritz values: it is of a linear system")
    count = max(len(curve) for curve in curves if curve is not None)
    table = np.full((len(steps), count), np.nan)
    for row, curve in enumerate(curves):
        assert curve is not None
        table[row, : len(curve)] = curve.numpy()
    for column in range(count):
        shade = 0.15 + 0.6 * column / max(count - 1, 1)
        ax.plot(products, table[:, column], _STYLES[column % 4], color=str(shade), label=f"{column + 1}")
    if what == "residuals":
        ax.set_yscale("log")
    ax.set_ylabel("Ritz values" if what == "values" else "residual norms, as estimated")
    if 1 < count <= 10:
        ax.legend(title="pair", frameon=False, fontsize="small", ncols=2)


def _draw_result(ax: Any, result: EigenResult, what: str) -> None:
    if what == "values":
        raise ValueError(
            "a result does not have the Ritz values of its steps; pass callback=steps.append to eigsh, and "
            "draw steps"
        )
    history = result.history.numpy()
    if type(result.method).__name__ == "Lanczos" and history.ndim == 2 and len(history):
        ax.plot(history[:, 0], history[:, 2], "-", color=INK, label="largest residual / tolerance")
        ax.axhline(1.0, color=ACCENT, linestyle="--", linewidth=1, label="tolerance")
        ax.set_ylabel("largest residual of the wanted pairs / tolerance")
        _count(ax, history)
        ax.legend(frameon=False, fontsize="small", loc="center left")
    else:
        rows = np.atleast_2d(history)
        for column, curve in enumerate(rows.T):
            shade = 0.15 + 0.6 * column / max(rows.shape[1] - 1, 1)
            ax.plot(range(len(curve)), curve, "o-", markersize=3, color=str(shade))
        ax.set_ylabel("residual norms")
    ax.set_yscale("log")


def _count(ax: Any, history: Any) -> None:
    """How many pairs have converged, as steps at the right."""
    right = ax.twinx()
    right.step(history[:, 0], history[:, 1], where="post", color=BULK, linewidth=2, zorder=0)
    right.set_ylabel("pairs converged (pale steps)")
    right.yaxis.get_major_locator().set_params(integer=True)
    right.set_ylim(0, max(1.0, 1.05 * float(history[:, 1].max())))
    right.spines["top"].set_visible(False)
    ax.set_zorder(right.get_zorder() + 1)
    ax.patch.set_visible(False)


def draw_estimate(estimate: Estimate, ax: Any = None) -> Any:
    """An estimate and its interval over the products spent.

    Args:
        estimate: What `trace` or another estimate returned.
        ax: Axes to draw into; a new figure's by default.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    ax = axes_or_new(ax)
    history = estimate.history.numpy().reshape(-1, 3)
    history = history[np.isfinite(history).all(axis=1)]
    products, values, errors = history.T
    if len(history):
        ax.fill_between(products, values - errors, values + errors, color=PALE, label="error, at each look")
        ax.plot(products, values, "o-", color=INK, markersize=3, label="estimate")
    if isinstance(estimate.value, float):
        low, high = estimate.interval
        where = [float(products[-1])] if len(history) else [float(estimate.num_matvecs)]
        middle = (low + high) / 2
        ax.errorbar(
            where,
            [middle],
            yerr=[(high - low) / 2],
            fmt="none",
            ecolor=ACCENT,
            elinewidth=2,
            capsize=5,
            label=f"{100 * estimate.confidence:g} % interval",
        )
    ax.set_xlabel("products")
    ax.set_ylabel("estimate" if isinstance(estimate.value, float) else "norm of the estimate")
    ax.legend(frameon=False, fontsize="small")
    bare(ax)
    return ax


def draw_minimization(result: Any, ax: Any = None) -> Any:
    """The gradient's largest entry, and the function's value above the last, over steps.

    Args:
        result: What `minimize` or `least_squares` returned.
        ax: Axes to draw into; a new figure's by default.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    ax = axes_or_new(ax)
    rows = list(result.history)
    steps = [row.nit for row in rows]
    gradients = np.array([row.gradient_norm for row in rows])
    above = np.array([row.fun for row in rows]) - min(row.fun for row in rows)
    ax.plot(
        steps, np.where(gradients > 0, gradients, np.nan), "o-", color=INK, markersize=3, label="gradient"
    )
    ax.plot(steps, np.where(above > 0, above, np.nan), "--", color=ACCENT, label="value above the least")
    ax.set_yscale("log")
    ax.set_xlabel("steps")
    ax.legend(frameon=False, fontsize="small")
    bare(ax)
    return ax
