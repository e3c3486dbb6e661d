"""Curvature of each parameter by itself, and bars of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch

from hvplib.operators.base import Operator
from hvplib.plots.style import ACCENT, BULK, INK, axes_or_new, bare

__all__ = ["draw_bars", "layer_curvature"]


def layer_curvature(
    A: Operator,
    what: Literal["trace", "top", "mean"] = "trace",
    *,
    names: Any = None,
    num_probes: int = 20,
    rtol: float = 1e-2,
    generator: torch.Generator | int | None = None,
) -> dict[str, tuple[float, float]]:
    """tr A_bb, or λ_max(A_bb), or tr A_bb / n_b, for each diagonal block A_bb of named parameters.

    Traces of all blocks come from the same products: zᵀA z with random signs z splits into Σ_b z_bᵀ(A z)_b,
    whose parts have the expectations tr A_bb. The largest eigenvalue of a block is found by `eigsh` of A
    restricted to it, whose products are products with A.

    Args:
        A: Symmetric, on a pytree with names, such as the `HessianOperator` of a module.
        what: "trace", "top" (the eigenvalue of largest magnitude), or "mean" (trace over entries: the mean
            eigenvalue, which blocks of unequal size share a scale in).
        names: Which leaves or layers, in which order (see `Space.indices`); all leaves by default.
        num_probes: Products for "trace" and "mean".
        rtol: Of the residual, for "top".
        generator: Of random numbers, or a seed.

    Returns:
        Name ↦ (value, error): the standard error of a trace, the certain bound of an eigenvalue.

    Raises:
        ValueError: A has no names, or a name matches nothing.

    Source: Hutchinson (1989), 10.1080/03610918908812806.

    Example:
        >>> import torch
        >>> from hvplib import HessianOperator
        >>> from hvplib.plots import layer_curvature
        >>> point = {"a": torch.ones(2).double(), "b": torch.ones(1).double()}
        >>> H = HessianOperator(lambda p: (p["a"] ** 2).sum() + 5 * (p["b"] ** 2).sum(), point)
        >>> layer_curvature(H)
        {'a': (4.0, 0.0), 'b': (10.0, 0.0)}
    """
    if what not in ("trace", "top", "mean"):
        raise ValueError(f'what must be "trace", "top" or "mean", got {what!r}')
    space = A.domain
    if space is None:
        raise ValueError(
            "A has no names of parameters: it acts on flat vectors; give one of a module or a dict"
        )
    blocks = {name: space.indices(name) for name in (space.names if names is None else names)}
    seeded = (
        generator if isinstance(generator, torch.Generator) else torch.Generator().manual_seed(generator or 0)
    )
    if what == "top":
        return {name: _top(A, where, rtol, seeded) for name, where in blocks.items()}
    samples: dict[str, list[float]] = {name: [] for name in blocks}
    for _ in range(num_probes):
        z = space.random(generator=seeded, distribution="rademacher")
        parts = z * A._product(z.unsqueeze(1))[:, 0]
        for name, where in blocks.items():
            samples[name].append(float(parts[where].double().sum()))
    return {
        name: _mean(values, len(blocks[name]) if what == "mean" else 1) for name, values in samples.items()
    }


def _mean(values: list[float], size: int) -> tuple[float, float]:
    numbers = np.array(values) / size
    spread = float(numbers.std(ddof=1)) / len(numbers) ** 0.5 if len(numbers) > 1 else float("nan")
    return float(numbers.mean()), spread


def _top(A: Operator, where: Any, rtol: float, generator: torch.Generator) -> tuple[float, float]:
    from hvplib.eigen import eigsh

    found = eigsh(A[where, where], 1, which="LM", rtol=rtol, generator=generator, throw=False)
    low, high = found.enclosures[0].tolist()
    return float(found.eigenvalues[0]), (high - low) / 2


def draw_bars(
    values: Mapping[str, tuple[float, float] | float], ax: Any = None, *, label: str = "trace"
) -> Any:
    """A bar for each name, with its error; the first at the top, negative ones in another ink.

    Args:
        values: Name ↦ value, or (value, error), as `layer_curvature` returns.
        ax: Axes to draw into; a new figure's by default.
        label: Of the horizontal axis.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There is nothing to draw.
    """
    if not values:
        raise ValueError("values must name at least one bar, got none")
    ax = axes_or_new(ax)
    pairs = [value if isinstance(value, tuple) else (value, 0.0) for value in values.values()]
    heights, errors = (np.array(column) for column in zip(*pairs, strict=True))
    places = np.arange(len(pairs))
    inks = [BULK if height >= 0 else ACCENT for height in heights]
    hatches = ["" if height >= 0 else "///" for height in heights]
    ax.barh(places, heights, color=inks, edgecolor=INK, linewidth=0.6, hatch=hatches)
    ax.errorbar(heights, places, xerr=np.nan_to_num(errors), fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    ax.set_yticks(places, list(values))
    ax.invert_yaxis()
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_xlabel(label)
    bare(ax)
    return ax
