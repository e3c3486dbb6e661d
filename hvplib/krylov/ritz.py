"""What a small projected matrix says of a large one."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Ritz"]


class Ritz(NamedTuple):
    """Approximate eigenpairs from the active part of the basis, values ascending; all on the CPU, float64.

    Attributes:
        values: Ritz values (m,).
        vectors: Their coordinates (m, m) in the active columns.
        residual_norms: ‖A x − θ x‖ (m,), as the factorisation has it.
        deflated_norms: The same for (I − X Xᵀ) A (I − X Xᵀ), where X are the locked columns.
    """

    values: Tensor
    vectors: Tensor
    residual_norms: Tensor
    deflated_norms: Tensor
