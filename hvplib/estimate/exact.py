"""All of the diagonal, by products with unit vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from hvplib.estimate.products import Products

__all__ = ["exact_diagonal"]


def exact_diagonal(products: Products, block_size: int) -> Tensor:
    """a_ii (n,), in float64 on the operator's device: n products."""
    operator = products.operator
    n = operator.shape[0]
    found = torch.empty(n, dtype=torch.float64, device=operator.device)
    for start in range(0, n, block_size):
        stop = min(start + block_size, n)
        rows = torch.zeros(stop - start, n, dtype=operator.torch_dtype, device=operator.device)
        rows.diagonal(start).fill_(1)
        # Together, unit vectors of all rows are as good as random directions: their products tell ‖A‖_F.
        found[start:stop] = products.of_random(rows.mT, "unit vectors")[start:stop].diagonal()
    return found
