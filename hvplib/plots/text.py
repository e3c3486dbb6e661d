"""A density in a terminal, of characters."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hvplib.results.density import SpectralDensity

__all__ = ["text_density"]

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:-=+*#@"
# A density of less than so many decades below the largest leaves its column empty on a logarithmic height.
_DECADES = 6.0


def text_density(
    density: SpectralDensity,
    *,
    width: int = 72,
    height: int = 8,
    scale: str = "log",
    ascii: bool | None = None,
) -> str:
    """φ(t) as columns of characters, a row for each part of its height.

    Args:
        density: What `spectral_density` returned.
        width: Columns.
        height: Rows.
        scale: Of the height: "log", over six decades, or "linear".
        ascii: Whether to keep to ASCII. None does where standard output cannot show block characters.

    Returns:
        Lines of text.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> import torch
        >>> from hvplib import Diagonal
        >>> from hvplib.estimate.density import spectral_density
        >>> from hvplib.plots import text_density
        >>> A = Diagonal(torch.cat([torch.linspace(0, 1, 900), torch.full((100,), 3.0)]).double())
        >>> found = spectral_density(A, width=0.2, grid=torch.linspace(-1, 4, 101))
        >>> print(text_density(found, width=30, height=3, scale="linear", ascii=True))
        0.9 |      -#@@#-
            |     :@@@@@@=
          0 |   .=@@@@@@@@=.      .-++-.
          -1            1.5            4
    """
    if width < 10 or height < 1:
        raise ValueError(f"width must be at least 10 and height at least 1, got {width} and {height}")
    if scale not in ("log", "linear"):
        raise ValueError(f'scale must be "log" or "linear", got {scale!r}')
    marks = _ASCII if (_plain_terminal() if ascii is None else ascii) else _BLOCKS
    top = float(density.density.max())
    levels = _levels(density, width, top, scale) * height * (len(marks) - 1)
    rows = []
    for row in reversed(range(height)):
        filled = np.clip(np.round(levels - row * (len(marks) - 1)), 0, len(marks) - 1).astype(int)
        rows.append("".join(marks[level] for level in filled))
    return "\n".join([*_heights(rows, top, scale), *_axis(density, width)])


def _plain_terminal() -> bool:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        _BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def _levels(density: SpectralDensity, width: int, top: float, scale: str) -> np.ndarray[Any, Any]:
    """The height of each column, from 0 to 1: that of the largest density in it."""
    t, phi = density.grid.numpy(), density.density.clamp(min=0).numpy()
    place = np.log10(t) if density.scale == "log" else t
    span = float(place[-1] - place[0]) or 1.0
    column = np.minimum((width * (place - place[0]) / span).astype(int), width - 1)
    heights = np.interp(place[0] + span * (np.arange(width) + 0.5) / width, place, phi)
    np.maximum.at(heights, column, phi)
    if top <= 0:
        return np.zeros(width)
    with np.errstate(divide="ignore"):
        relative = heights / top if scale == "linear" else 1 + np.log10(heights / top) / _DECADES
    clipped: np.ndarray[Any, Any] = np.clip(relative, 0, 1)
    return clipped


def _heights(rows: list[str], top: float, scale: str) -> list[str]:
    """The rows with the largest and the least density at their left."""
    low = top * 10**-_DECADES if scale == "log" else 0.0
    labels = [f"{top:.2g}", *[""] * (len(rows) - 2), f"{low:.2g}"] if len(rows) > 1 else [f"{top:.2g}"]
    margin = max(map(len, labels))
    return [f"{label:>{margin}} |{row}".rstrip() for label, row in zip(labels, rows, strict=True)]


def _axis(density: SpectralDensity, width: int) -> list[str]:
    """The least, the middle and the largest t beneath."""
    low, high = float(density.grid[0]), float(density.grid[-1])
    middle = math.sqrt(low * high) if density.scale == "log" else (low + high) / 2
    texts = [f"{low:.4g}", f"{middle:.4g}", f"{high:.4g}"]
    gap = width - sum(map(len, texts))
    left = gap // 2
    return ["  " + texts[0] + " " * left + texts[1] + " " * (gap - left) + texts[2]]
