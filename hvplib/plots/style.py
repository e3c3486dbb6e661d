"""What the pictures have in common: inks that are apart in grey as well, and axes where none are given."""

from __future__ import annotations

from typing import Any

__all__ = ["ACCENT", "BULK", "COLOURS", "INK", "PALE", "axes_or_new"]

INK, ACCENT, BULK, PALE = "#1f2937", "#c2410c", "#a9b4c2", "#e5e7eb"
COLOURS = "magma_r"  # evenly darker from pale to black, in colour and in grey


def axes_or_new(ax: Any) -> Any:
    """The axes given, or those of a new figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("a picture needs matplotlib: `pip install hvplib[plots]`") from error
    _, new = pyplot.subplots(layout="constrained")
    return new


def bare(ax: Any) -> None:
    """No frame but the two axes."""
    ax.spines["top"].set_visible(False)
    ax.spines["right"].set_visible(False)
