"""Activations whose fused kernels lack a second derivative."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["hardsigmoid", "hardsigmoid_", "rrelu", "rrelu_"]


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    r"""$\min(\max(x/6 + 1/2, 0), 1)$ (``torch.nn.functional.hardsigmoid``, whose backward has no derivative).

    Its gradient in torch is off by 3e-8 in float64, where the kernel rounds 1/6 to float32; this one is not.

    Args:
        input: ``x``, any shape.
        inplace: Write the result into ``input``.

    Returns:
        A tensor shaped like ``input``.
    """
    result = F.hardtanh(input + 3, 0.0, 6.0) / 6
    return input.copy_(result) if inplace else result


def hardsigmoid_(input: Tensor) -> Tensor:
    """``hardsigmoid`` in place."""
    return hardsigmoid(input, inplace=True)


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    r"""$\max(x, 0) + a \min(x, 0)$ with random ``a`` (``torch.nn.functional.rrelu``).

    Only the form in place is rebuilt, from the other one, which draws the same numbers and has a forward
    formula.

    Args:
        input: ``x``, any shape.
        lower: Smallest slope.
        upper: Largest slope.
        training: Draw the slopes; otherwise their mean is used.
        inplace: Write the result into ``input``.

    Returns:
        A tensor shaped like ``input``.
    """
    if not inplace:
        return F.rrelu(input, lower, upper, training)
    return input.copy_(F.rrelu(input.clone(), lower, upper, training))


def rrelu_(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
) -> Tensor:
    """``rrelu`` in place."""
    return rrelu(input, lower, upper, training, inplace=True)
