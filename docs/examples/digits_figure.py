"""The figure of `digits.py`: a spectrum, a minimisation and a dense Hessian."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, PowerNorm

matplotlib.use("Agg")  # draws to a file, needs no screen
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from digits import Dense, Descent, Spectrum

INK, BULK, ACCENT = "#1f2937", "#a9b4c2", "#c2410c"  # apart in grey as well
COLOURS = "magma_r"  # evenly darker from pale to black, in colour and in grey
STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def draw(spectrum: Spectrum, descent: Descent, dense: Dense, path: Path) -> None:
    """Draw the three findings into one file."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(12, 8.6), layout="constrained", facecolor="white")
        figure.get_layout_engine().set(hspace=0.08, wspace=0.05, w_pad=0.1, h_pad=0.12)
        grid = figure.add_gridspec(2, 3, height_ratios=[1, 1.05])
        draw_spectrum(figure.add_subplot(grid[0, :]), spectrum)
        draw_descent(figure.add_subplot(grid[1, 0]), descent)
        draw_dense(figure.add_subplot(grid[1, 1]), dense)
        draw_difference(figure.add_subplot(grid[1, 2]), dense)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160)
        plt.close(figure)


def draw_spectrum(axes: Axes, spectrum: Spectrum) -> None:
    """All eigenvalues as a histogram, logarithmic to both sides of zero; the computed ones marked."""
    values, top = spectrum.everything, spectrum.top
    small = 1e-6
    bins = np.logspace(-6, 1, 57)
    counts, _, _ = axes.hist(values, np.concatenate([-bins[::-1], bins]), color=BULK)
    axes.set_xscale("symlog", linthresh=small, linscale=0.35)
    axes.set_yscale("log")
    axes.set_xlim(values.min() * 3, top.max() * 2.5)
    axes.set_ylim(0.7, 3 * counts.max())

    mark = 20.0
    axes.vlines(top, 0.7, mark, color=ACCENT, linewidth=1.2)
    axes.plot(top, np.full(len(top), mark), "v", color=ACCENT, markersize=7)
    middle = np.exp(np.log(top).mean())
    largest = f"the {len(top)} largest, by {spectrum.cost.products} products\nwith residuals below "
    axes.text(middle, 1.6 * mark, largest + bound(spectrum.residuals.max()), color=ACCENT, ha="center")

    below, above = (values < -small).sum(), (values > small).sum()
    height = 1.35 * counts.max()
    axes.text(-1e-4, height, f"{below} below zero", ha="center")
    axes.text(0, height, f"{len(values) - below - above} zero", ha="center")
    axes.text(3e-4, height, f"{above} above zero", ha="center")
    axes.set_xlabel("eigenvalue of the network's Hessian   (zero: smaller than 10⁻⁶)")
    axes.set_ylabel("how many")
    few, many = spectrum.cost.products, spectrum.dense_cost.products
    axes.set_title(f"A few directions carry the curvature: {few} products find them, the whole takes {many}")


def draw_descent(axes: Axes, descent: Descent) -> None:
    """The gradient's norm over the products spent."""
    axes.semilogy(descent.products, descent.gradients, "-", color=BULK, linewidth=2)
    axes.semilogy(descent.products, descent.gradients, "o", color=INK, markersize=4.5)
    axes.set_xlabel("Hessian-vector products (a dot is a step)")
    axes.set_ylabel("norm of the gradient")
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    orders = np.log10(descent.gradients[0] / descent.gradients[-1])
    steps = len(descent.products) - 1
    axes.set_title(f"SciPy's Newton-CG: {orders:.0f} orders of\nmagnitude in {steps} steps")


def draw_dense(axes: Axes, dense: Dense) -> None:
    """Size of the entries of the dense Hessian."""
    size = np.abs(dense.matrix)
    norm = LogNorm(1e-4 * size.max(), size.max(), clip=True)
    show(axes, np.maximum(size, norm.vmin), norm, "size of the entry")
    axes.set_ylabel("weights towards digit")
    axes.set_title(f"A dense Hessian, {len(size)} x {len(size)}:\na block for each pair of digits")


def draw_difference(axes: Axes, dense: Dense) -> None:
    """Size of its difference from the same matrix by products, relative to its largest entry."""
    error = np.abs(dense.matrix - dense.by_operator) / np.abs(dense.matrix).max()
    largest = max(error.max(), np.finfo(float).eps)  # a scale, even if they are the same to the last bit
    digits, unit = scientific(largest)
    label = f"difference, in {unit} of the largest entry"
    show(axes, error * digits / largest, PowerNorm(0.5, 0, digits), label)
    axes.set_title(f"The operator agrees with it\nto {bound(largest)} in every entry")


def show(axes: Axes, matrix: np.ndarray, norm: Normalize, label: str) -> None:
    """A matrix of 10 x 10 blocks as an image with its scale beneath."""
    image = axes.imshow(matrix, norm=norm, cmap=COLOURS, interpolation="nearest")
    block = len(matrix) / 10
    centres = block * (np.arange(10) + 0.5) - 0.5
    axes.set_xticks(centres, range(10))
    axes.set_yticks(centres, range(10))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, location="bottom", aspect=36, pad=0.02, label=label)
    bar.outline.set_visible(False)


def scientific(number: float) -> tuple[float, str]:
    """2.5e-16 as 2.5 and "10⁻¹⁶"."""
    exponent = int(np.floor(np.log10(number)))
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return number / 10.0**exponent, "10" + str(exponent).translate(raised)


def bound(number: float) -> str:
    """A round number that is not below this one: 3 × 10⁻¹⁶ for 2.5e-16."""
    digits, power = scientific(number)
    return f"{int(np.ceil(digits))} × {power}"
