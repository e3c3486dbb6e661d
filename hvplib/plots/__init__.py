"""Pictures of results (matplotlib, optional), and of a density in a terminal."""

from hvplib.plots.bars import draw_bars, layer_curvature
from hvplib.plots.convergence import draw_convergence, draw_estimate, draw_minimization
from hvplib.plots.density import draw_density
from hvplib.plots.landscape import Slice, draw_slice, loss_slice
from hvplib.plots.text import text_density

__all__ = [
    "Slice",
    "draw_bars",
    "draw_convergence",
    "draw_density",
    "draw_estimate",
    "draw_minimization",
    "draw_slice",
    "layer_curvature",
    "loss_slice",
    "text_density",
]
