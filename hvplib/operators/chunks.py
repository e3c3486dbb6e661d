"""Products with so many columns at a time as memory allows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hvplib.ad.memory import chunk_width, with_backoff

__all__ = ["in_chunks"]


def in_chunks(product: Callable[[Tensor], Tensor], X: Tensor, rows: int, nbytes: int) -> Tensor:
    """A X for X (n, k), so many columns at a time as memory allows.

    Args:
        product: From columns to (rows, number of columns).
        X: (n, k).
        rows: Of the result.
        nbytes: Bytes that a product works on for each column, beside the columns themselves.
    """
    count = X.shape[1]
    result: Tensor | None = None

    def run(start: int, stop: int) -> None:
        nonlocal result
        whole = stop - start == count
        part = product(X if whole else X[:, start:stop])
        if whole and part.mT.is_contiguous():
            result = part
            return
        if result is None:
            result = _empty(rows, count, X)
        result[:, start:stop] = part

    per_vector = nbytes + (X.shape[0] + rows) * X.element_size()
    with_backoff(run, count, chunk_width(per_vector, count, X.device))
    return _empty(rows, count, X) if result is None else result


def _empty(rows: int, count: int, like: Tensor) -> Tensor:
    """A block (rows, count), stored as the others are."""
    return torch.empty(count, rows, dtype=like.dtype, device=like.device).mT
