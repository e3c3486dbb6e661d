"""Blocks that fit are made at once; see also `test_batches` for those that do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib.operators.chunks import in_chunks


@pytest.mark.parametrize("count", [2, 5])
def test_a_block_that_fits_is_not_copied(count: int) -> None:
    made: list[Tensor] = []

    def product(V: Tensor) -> Tensor:
        made.append(3 * V)
        return made[-1]

    X = torch.ones(count, 3).mT
    assert in_chunks(product, X, 3, 0) is made[0]
    columns = in_chunks(lambda V: (3 * V).contiguous(), X, 3, 0)  # laid out by rows
    assert columns.mT.is_contiguous() and torch.equal(columns, 3 * X)


def test_no_columns() -> None:
    assert in_chunks(lambda V: V, torch.ones(3, 0), 4, 0).shape == (4, 0)
