"""Sampling an image on a grid, rebuilt from parts that torch differentiates correctly to second order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["grid_sample", "grid_sampler"]

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    r"""$y_{nc}(o) = \sum_k w_k(g_{no})\, x_{nc}(k)$ (``torch.nn.functional.grid_sample``).

    The weights $w_k$ are products of one-dimensional ones, and the pixels are gathered; torch has no forward
    formula for the backward of the fused kernel.

    Args:
        input: ``x``, ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        grid: ``g``, ``(N, ..., 2 or 3)``, places in [-1, 1], the last dimension of ``x`` first.
        mode: ``"bilinear"``, ``"nearest"``, or ``"bicubic"`` in two dimensions.
        padding_mode: ``"zeros"``, ``"border"`` or ``"reflection"``.
        align_corners: Whether -1 and 1 are the centres of the corner pixels; None means no.

    Returns:
        ``(N, C, ...)``.
    """
    if mode not in _MODES or padding_mode not in _PADDINGS:
        return torch.nn.functional.grid_sample(input, grid, mode, padding_mode)  # raises torch's own error
    return grid_sampler(
        input,
        grid,
        _MODES.index(mode),
        _PADDINGS.index(padding_mode),
        bool(align_corners),
    )


def grid_sampler(
    input: Tensor,
    grid: Tensor,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
) -> Tensor:
    """``torch.grid_sampler`` and its forms for 2 and 3 dimensions: ``grid_sample`` with modes by number.

    Args:
        input: ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        grid: ``(N, ..., 2 or 3)``.
        interpolation_mode: 0 bilinear, 1 nearest, 2 bicubic.
        padding_mode: 0 zeros, 1 border, 2 reflection.
        align_corners: Whether -1 and 1 are the centres of the corner pixels.

    Returns:
        ``(N, C, ...)``.
    """
    spatial = input.dim() - 2
    mode, padding = _MODES[interpolation_mode], _PADDINGS[padding_mode]
    fits = (
        spatial in (2, 3)
        and grid.dim() == input.dim()
        and grid.shape[-1] == spatial
        and input.dtype == grid.dtype
    )
    if (
        not fits
        or grid.shape[0] != input.shape[0]
        or input.numel() == 0
        or (mode == "bicubic" and spatial == 3)
    ):
        # Raises torch's own error; an empty batch has no derivative to get wrong.
        return torch.grid_sampler(input, grid, interpolation_mode, padding_mode, align_corners)
    sizes = input.shape[2:]
    # The last coordinate of the grid belongs to the first spatial dimension.
    places = [_unnormalised(grid[..., spatial - 1 - d], sizes[d], align_corners) for d in range(spatial)]
    if mode != "bicubic":
        places = [
            _padded(place, size, padding, align_corners) for place, size in zip(places, sizes, strict=True)
        ]
    taps = [_taps(place, mode) for place in places]
    if mode == "bicubic":
        taps = [
            [(_padded(pixel, size, padding, align_corners), weight) for pixel, weight in line]
            for line, size in zip(taps, sizes, strict=True)
        ]
    terms = []
    for corner in itertools.product(*taps):
        value = _pixels(input, [pixel for pixel, _ in corner], sizes)
        factors = [weight for _, weight in corner if weight is not None]
        terms.append(value * math.prod(factors[1:], start=factors[0]).unsqueeze(1) if factors else value)
    return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]


def _unnormalised(place: Tensor, size: int, align_corners: bool) -> Tensor:
    """From [-1, 1] to pixels."""
    return (place + 1) * ((size - 1) / 2) if align_corners else (place + 1) * (size / 2) - 0.5


def _padded(place: Tensor, size: int, padding: str, align_corners: bool) -> Tensor:
    if padding == "zeros":
        return place
    if padding == "reflection":
        low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
        place = _reflected(place, low, high - low)
    # The derivative at the border itself is 0 in torch, where clamp would say 1; and NaN counts as low.
    inside = (place > 0) & (place < size - 1)
    return torch.where(inside, place, torch.where(place > 0, size - 1.0, 0.0).to(place.dtype))


def _reflected(place: Tensor, low: float, span: float) -> Tensor:
    if span == 0:
        return torch.zeros_like(place)
    distance = (place - low).abs()
    rest, turns = torch.fmod(distance, span), torch.floor(distance.detach() / span)
    return torch.where(turns % 2 == 0, rest + low, span - rest + low)


def _taps(place: Tensor, mode: str) -> list[tuple[Tensor, Tensor | None]]:
    """The pixels that a place reads in one dimension, each with its weight (None is 1)."""
    if mode == "nearest":
        return [(place.detach().round(), None)]
    floor = place.detach().floor()
    t = place - floor
    if mode == "bilinear":
        return [(floor, 1 - t), (floor + 1, t)]
    weights = (_cubic_far(1 + t), _cubic_near(t), _cubic_near(1 - t), _cubic_far(2 - t))
    return [(floor + offset, weight) for offset, weight in zip((-1, 0, 1, 2), weights, strict=True)]


# Keys' cubic convolution (1981, doi:10.1109/TASSP.1981.1163711) with the constant of torch.
_KEYS = -0.75


def _cubic_near(t: Tensor) -> Tensor:
    return ((_KEYS + 2) * t - (_KEYS + 3)) * t * t + 1


def _cubic_far(t: Tensor) -> Tensor:
    return ((_KEYS * t - 5 * _KEYS) * t + 8 * _KEYS) * t - 4 * _KEYS


def _pixels(input: Tensor, pixel: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """``input[n, c, pixel...]`` as ``(N, C, ...)``, 0 outside of the image."""
    flat = torch.zeros_like(pixel[0], dtype=torch.int64)
    inside = torch.ones_like(flat, dtype=torch.bool)
    for place, size in zip(pixel, sizes, strict=True):
        within = (place >= 0) & (place <= size - 1)
        inside = inside & within
        flat = flat * size + torch.where(within, place.detach(), 0).to(torch.int64)
    batch, channels = input.shape[:2]
    index = flat.reshape(batch, 1, -1).expand(-1, channels, -1)
    values = input.flatten(2).gather(2, index).reshape(batch, channels, *flat.shape[1:])
    return torch.where(inside.unsqueeze(1), values, 0)
