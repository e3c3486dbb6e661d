"""A spectral density, its bounds, and eigenvalues that are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hvplib.plots.style import ACCENT, BULK, INK, axes_or_new, bare

if TYPE_CHECKING:
    from hvplib.results.density import SpectralDensity

__all__ = ["draw_density"]

# Densities below this part of the largest are drawn as nothing on a logarithmic axis.
_LEAST = 1e-8


def draw_density(
    density: SpectralDensity,
    ax: Any = None,
    *,
    eigenvalues: Any = None,
    scale: str = "log",
    label: str | None = None,
) -> Any:
    """φ(t) over t, with a tick for each known eigenvalue.

    The area is the density; the dotted lines are two standard errors from it. Eigenvalues that were taken out
    of the density before (`SpectralDensity.outliers`) are ticks too.

    Args:
        density: What `spectral_density` returned; its own scale ("linear" or "log") is that of the
            horizontal axis.
        ax: Axes to draw into; a new figure's by default.
        eigenvalues: Values or an `EigenResult` to mark.
        scale: Of the vertical axis, "log" or "linear". A few eigenvalues beside many are seen on a
            logarithmic one only.
        label: For a legend.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: Another scale.
    """
    if scale not in ("log", "linear"):
        raise ValueError(f'scale must be "log" or "linear", got {scale!r}')
    ax = axes_or_new(ax)
    t, phi = density.grid.numpy(), density.density.clamp(min=0).numpy()
    spread = 2 * density.density_stderr.numpy()
    least = _LEAST * float(phi.max()) if scale == "log" else 0.0
    seen = np.maximum(phi, least)
    ax.fill_between(t, least, seen, color=BULK, linewidth=0, label=label)
    ax.plot(t, seen, color=INK, linewidth=1.2)
    for edge in (phi - spread, phi + spread) if spread.max() > 0 else ():
        ax.plot(t, np.where(edge > least, edge, np.nan), ":", color=INK, linewidth=0.9)
    if density.scale == "log":
        ax.set_xscale("log")
    ax.set_yscale(scale)
    if scale == "log":
        ax.set_ylim(least, 3 * float(phi.max()))
    else:
        ax.set_ylim(0, 1.15 * float(phi.max()))
    marks = _marks(density, eigenvalues)
    if len(marks):
        # In the axes' own height: a tick is as long on a linear axis as on a logarithmic one.
        ax.vlines(marks, 0, 0.09, transform=ax.get_xaxis_transform(), color=ACCENT, linewidth=1.6)
        ax.plot(
            marks,
            np.full(len(marks), 0.09),
            "v",
            transform=ax.get_xaxis_transform(),
            color=ACCENT,
            markersize=5,
            label=f"{len(marks)} eigenvalues",
            linestyle="none",
        )
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("density per decade" if density.scale == "log" else "density")
    bare(ax)
    return ax


def _marks(density: SpectralDensity, eigenvalues: Any) -> Any:
    known = getattr(eigenvalues, "eigenvalues", eigenvalues)
    parts = [density.outliers.numpy()]
    if known is not None:
        parts.append(torch.as_tensor(known).detach().cpu().double().reshape(-1).numpy())
    marks = np.unique(np.concatenate(parts))
    return marks[marks > 0] if density.scale == "log" else marks
