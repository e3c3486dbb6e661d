"""Many vectors times one matrix as one product of matrices, where vmap makes many products of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["BatchedProducts"]

_BMM: Any = torch.ops.aten.bmm.default


class BatchedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside it, A xᵢ for all i is X Aᵀ, and xᵢᵀ A is X A, with the vectors as the rows of X.

    What vmap writes for these are batched products with A expanded: they read it once for each vector. The
    results are the same but for rounding.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, a second and 100 MB, to tell it to stay out

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _BMM and not kwargs:
            left, right = args
            if right.shape[2] == 1 and _is_one_matrix(left):
                return torch.mm(right.squeeze(2), left[0].t()).unsqueeze(2)
            if left.shape[1] == 1 and _is_one_matrix(right):
                return torch.mm(left.squeeze(1), right[0]).unsqueeze(1)
        return func(*args, **(kwargs or {}))


def _is_one_matrix(batch: Tensor) -> bool:
    """Whether a batch of matrices is one of them, shown several times."""
    return batch.stride(0) == 0
