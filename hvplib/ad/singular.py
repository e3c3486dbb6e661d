"""Points at which torch's own derivative formulas divide by zero and patch the result by convention.

A norm at 0 gets the derivative 0. That is a subgradient of the norm, but ‖x‖² composed from it is smooth and
its second derivative then comes out wrong without a word. Where such a point is met the product is confirmed
by a difference of gradients before it is returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SINGULAR", "SUBGRADIENT", "is_singular"]


def is_singular(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
    """Whether this call of a function of `SINGULAR` was at a point where its formulas break down."""
    values = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return SINGULAR[func](values, result)


def _zero_result(values: list[Tensor], result: Any) -> bool:
    return isinstance(result, Tensor) and bool((result.detach() == 0).any())


def _both_zero(values: list[Tensor], result: Any) -> bool:
    return bool(((values[0].detach() == 0) & (values[1].detach() == 0)).any())


def _zero_vector(values: list[Tensor], result: Any) -> bool:
    """Some vector among the inputs is zero, along whichever dimension vectors run."""
    zero = [value.detach() == 0 for value in values if value.dim() > 0]
    return any(bool(mask.all(dim=dim).any()) for mask in zero for dim in range(mask.dim()))


_NORMS: tuple[Any, ...] = (
    *(torch.norm, Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm, torch.linalg.matrix_norm),
    *(torch.dist, Tensor.dist, F.pairwise_distance, torch.cdist, F.pdist, torch.pdist),
    *(torch.hypot, Tensor.hypot),
)
SINGULAR: dict[Any, Callable[[list[Tensor], Any], bool]] = {
    **dict.fromkeys(_NORMS, _zero_result),
    **dict.fromkeys([torch.atan2, Tensor.atan2, torch.arctan2, Tensor.arctan2], _both_zero),
    **dict.fromkeys([F.normalize, F.cosine_similarity, torch.cosine_similarity], _zero_vector),
}
# Where the difference cannot tell, the norm has no second derivative at 0 and torch's convention holds, as
# for ReLU and abs. The others are not even continuous there.
SUBGRADIENT = frozenset(_NORMS)
