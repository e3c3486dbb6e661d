"""The whole Hessian of few unknowns, from its products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["whole_hessian"]

# Up to so many columns are multiplied one by one: batched products of small functions have to be made for a
# hundred steps until the program for them has paid, and differ from single ones in the last bit.
_FEW = 4


def whole_hessian(hvp: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """∇²f (n, n), symmetric, float64, on the CPU: n products.

    Args:
        hvp: V ↦ ∇²f V for blocks (n, k).
        like: A vector (n,).
    """
    unit = torch.eye(like.shape[0], dtype=like.dtype, device=like.device)
    blocks = torch.split(unit, 1, dim=1) if like.shape[0] <= _FEW else [unit]
    H = torch.cat([hvp(block) for block in blocks], dim=1).to("cpu", torch.float64)
    return (H + H.mT) / 2
