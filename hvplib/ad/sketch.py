"""A vector told apart from another by a few numbers, where there is no memory to hold both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["sketch"]

_BUCKETS = 4096
# Entries that are looked at a time, in double precision: whole copies would be what is to be avoided.
_PIECE = 2**18


def sketch(tensors: Sequence[Tensor]) -> Tensor:
    """S x in float64, with S of one ±1 in each column: E ‖S x‖² = ‖x‖², up to ‖x‖² / 32 or so.

    S depends on the shapes alone, so equal vectors have equal bits, and the norm of what two differ by is
    that of S x − S y, up to 1 or 2 %.

    Args:
        tensors: x, as a list of tensors.

    Source: M. Charikar, K. Chen, M. Farach-Colton (2004), Finding frequent items in data streams,
    10.1016/S0304-3975(03)00400-6.
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(_BUCKETS, dtype=torch.float64)
    for x in tensors:
        for piece in torch.split(x.detach().reshape(-1), _PIECE):
            signs = torch.empty(piece.numel()).random_(2, generator=generator).mul_(2).sub_(1)
            signed = F.pad(piece.double() * signs.to(piece.device), (0, -piece.numel() % _BUCKETS))
            total += signed.reshape(-1, _BUCKETS).sum(0).cpu()
    return total
