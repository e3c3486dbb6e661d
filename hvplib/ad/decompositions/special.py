"""Special functions whose derivatives in torch break down at a removable singularity."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sinc"]


def sinc(input: Tensor) -> Tensor:
    r"""$\sin(\pi x) / (\pi x)$, 1 at 0 (``torch.sinc``, whose second derivative at 0 comes out as 0).

    Near 0 by its Taylor series, elsewhere by the formula; every derivative is right at 0 and near it.

    Args:
        input: ``x``, any shape.

    Returns:
        The same shape.
    """
    small = input.abs() < 0.05
    square = (torch.pi * torch.where(small, input, torch.zeros_like(input))) ** 2
    # Terms to t⁶/13! in t = (πx)²: the remainder at 0.05 is below 1e-20, and so are those of two derivatives.
    series = torch.ones_like(square)
    for number in (12 * 13, 10 * 11, 8 * 9, 6 * 7, 4 * 5, 2 * 3):
        series = 1 - square / number * series
    angle = torch.pi * torch.where(small, torch.ones_like(input), input)
    return torch.where(small, series, torch.sin(angle) / angle)
