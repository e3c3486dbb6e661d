"""Products as flat vectors in memory of their own, copied only where they are not that already."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hvplib.space import Space

__all__ = ["own_block", "own_vector"]


def own_vector(space: Space, product: Any, x: Tensor) -> Tensor:
    """The vector (n,) of a product with x."""
    leaf = _flat_leaf(space, product, x)
    return space.flatten(product) if leaf is None else leaf


def own_block(space: Space, product: Any, X: Tensor) -> Tensor:
    """The block (n, k) of products with X."""
    leaf = _flat_leaf(space, product, X)
    return space.flatten_block(product) if leaf is None else leaf.mT


def _flat_leaf(space: Space, product: Any, x: Tensor) -> Tensor | None:
    """The only leaf, if its entries lie in order, in memory that nothing else needs."""
    if not space.flat:
        return None
    leaf: Tensor = (space.structure.leaves(product) or [x])[0]
    # Zeros of forward mode lie nowhere, and cannot be written to.
    return leaf if leaf.is_contiguous() and leaf.data_ptr() not in (0, x.data_ptr()) else None
