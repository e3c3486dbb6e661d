"""The loss along one or two directions from the operator's point, with the model left as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from hvplib.eigen.result import EigenResult
from hvplib.operators.curvature import HessianOperator
from hvplib.plots.style import ACCENT, COLOURS, INK, axes_or_new, bare

__all__ = ["Slice", "draw_slice", "filter_normalized", "loss_slice"]


@dataclass(frozen=True)
class Slice:
    """f(x + s d), or f(x + s d + t e), on a grid; float64, on the CPU.

    Attributes:
        first: s (p,).
        second: t (q,); None for one direction.
        values: f (p,) or (p, q).
        quadratic: f(x) + s gᵀd + ½ s² dᵀH d (p,), what the gradient and the Hessian say; None for two
            directions.
        names: Of the directions.
    """

    first: Tensor
    second: Tensor | None
    values: Tensor
    quadratic: Tensor | None
    names: tuple[str, ...]


def loss_slice(
    H: HessianOperator,
    directions: Any = "random",
    *,
    num_directions: int = 1,
    extent: float = 1.0,
    num_points: int = 31,
    generator: torch.Generator | int | None = None,
) -> Slice:
    """f(x + s d + t e) for s and t in [−extent, extent], over the operator's own data.

    f is evaluated at copies of the point, without derivatives: num_points passes over the data for one
    direction, and their square for two; one product more for the quadratic model of one.

    Args:
        H: The Hessian of f at x.
        directions: "random" for normal directions with each filter scaled to the norm of x's own
            (`filter_normalized`), as in Li et al.; an `EigenResult`, whose first pairs are taken; or columns
            (n,), (n, 1) or (n, 2).
        num_directions: 1 or 2, of "random" and of an `EigenResult`.
        extent: The largest s and t.
        num_points: Along each direction; odd, to have x itself among them.
        generator: Of random directions, or a seed.

    Returns:
        `Slice`; draw it with `draw_slice`.

    Raises:
        TypeError: H is no `HessianOperator`.
        ValueError: An argument is out of range.

    Source: Li, Xu, Taylor, Studer, Goldstein (2018), Visualizing the loss landscape of neural nets,
    arXiv 1712.09913.

    Example:
        >>> import torch
        >>> from hvplib import HessianOperator
        >>> from hvplib.plots import loss_slice
        >>> H = HessianOperator(lambda x: (x**4).sum(), torch.tensor([1.0, 0.0]).double())
        >>> found = loss_slice(H, torch.tensor([1.0, 0.0]).double(), num_points=3)
        >>> found.values, found.quadratic
        (tensor([ 0.,  1., 16.], dtype=torch.float64), tensor([ 3.,  1., 11.], dtype=torch.float64))
    """
    if not isinstance(H, HessianOperator):
        raise TypeError(f"H must be a HessianOperator, which knows its function, got {type(H).__name__}")
    if num_directions not in (1, 2):
        raise ValueError(f"num_directions must be 1 or 2, got {num_directions!r}")
    if num_points < 2 or not extent > 0:
        raise ValueError(f"num_points must be at least 2 and extent positive, got {num_points} and {extent}")
    block, names = _directions(H, directions, num_directions, generator)
    along = torch.linspace(-extent, extent, num_points, dtype=torch.float64)
    assert H.domain is not None
    origin = H.domain.flatten(H.primals)

    def value(s: float, t: float = 0.0) -> float:
        moved = origin + s * block[:, 0]
        if t:
            moved += t * block[:, 1]
        assert H.domain is not None
        return float(H.value_at(H.domain.unflatten(moved)))

    steps = along.tolist()
    if block.shape[1] == 2:
        table = torch.tensor([[value(s, t) for t in steps] for s in steps], dtype=torch.float64)
        return Slice(along, along, table, None, names)
    d = block[:, 0]
    slope, curvature = float(H.flat_gradient @ d), float(d @ (H @ d))
    quadratic = float(H.value) + slope * along + curvature * along**2 / 2
    return Slice(along, None, torch.tensor([value(s) for s in steps], dtype=torch.float64), quadratic, names)


def filter_normalized(point: Any, generator: torch.Generator | int) -> Any:
    """Normal directions d with ‖d_i‖ = ‖x_i‖ for each filter i: each first index of a weight; 0 for vectors.

    Args:
        point: Pytree of tensors. Those of at least two dimensions are weights; biases and the weights of
            normalisations, which have fewer, are not moved, as in Li et al. If all have fewer, each is a
            filter.
        generator: Of the random numbers, or a seed.

    Returns:
        A pytree like the point.
    """
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    only_vectors = all(leaf.dim() < 2 for leaf in tree_leaves(point))

    def direction(x: Tensor) -> Tensor:
        if x.dim() < 2 and not only_vectors:
            return torch.zeros_like(x)
        d = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        rows, own = (d.reshape(1, -1), x.reshape(1, -1)) if only_vectors else (d.flatten(1), x.flatten(1))
        tiny = torch.finfo(x.dtype).tiny
        scale = own.norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True).clamp(min=tiny)
        scaled: Tensor = (rows * scale).reshape(x.shape)
        return scaled

    return tree_map(direction, point)


def _directions(
    H: HessianOperator, directions: Any, count: int, generator: torch.Generator | int | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Columns (n, 1) or (n, 2), and their names."""
    assert H.domain is not None
    if isinstance(directions, str):
        if directions != "random":
            raise ValueError(f'directions must be "random", an EigenResult or columns, got {directions!r}')
        seeded = generator
        if not isinstance(seeded, torch.Generator):
            seeded = torch.Generator().manual_seed(seeded or 0)
        drawn = [H.domain.flatten(filter_normalized(H.primals, seeded)) for _ in range(count)]
        return torch.stack(drawn, dim=1), tuple(f"random direction {i + 1}" for i in range(count))
    if isinstance(directions, EigenResult):
        values = [float(value) for value in directions.eigenvalues[:count]]
        block = torch.as_tensor(directions.eigenvectors)[:, :count]
        names = tuple(f"eigenvector of {value:.4g}" for value in values)
    else:
        block = torch.as_tensor(directions)
        block = block.unsqueeze(1) if block.dim() == 1 else block
        names = tuple(f"direction {i + 1}" for i in range(block.shape[-1]))
    if block.dim() != 2 or block.shape[0] != H.shape[0] or block.shape[1] not in (1, 2):
        raise ValueError(
            f"directions must be columns ({H.shape[0]}, 1) or ({H.shape[0]}, 2), got {tuple(block.shape)}"
        )
    return block.to(H.device, H.torch_dtype), names


def draw_slice(found: Slice, ax: Any = None, *, levels: int = 14) -> Any:
    """A slice: a curve with its quadratic model, or lines of equal loss with the point in the middle.

    Args:
        found: What `loss_slice` returned.
        ax: Axes to draw into; a new figure's by default.
        levels: Lines of equal loss.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    ax = axes_or_new(ax)
    s, values = found.first.numpy(), found.values.numpy()
    ax.set_xlabel(f"along {'the ' * (not found.names[0].startswith('direction'))}{found.names[0]}")
    if found.second is None:
        ax.plot(s, values, "-", color=INK, label="loss")
        if found.quadratic is not None:
            ax.plot(s, found.quadratic.numpy(), "--", color=ACCENT, label="gradient and Hessian")
        low, high = np.nanmin(values), np.nanmax(values)
        room = 0.08 * (high - low or 1.0)
        ax.set_ylim(low - 3 * room, high + room)  # the model may leave the picture, the loss may not
        ax.set_ylabel("loss")
        ax.legend(frameon=False, fontsize="small")
        bare(ax)
        return ax
    t = found.second.numpy()
    filled = ax.contourf(s, t, values.T, levels, cmap=COLOURS)
    ax.contour(s, t, values.T, levels, colors=INK, linewidths=0.5)
    ax.plot(0, 0, "o", color="white", markeredgecolor=INK, markersize=6)
    ax.set_ylabel(f"along {'the ' * (not found.names[1].startswith('direction'))}{found.names[1]}")
    ax.figure.colorbar(filled, ax=ax, label="loss")
    return ax
