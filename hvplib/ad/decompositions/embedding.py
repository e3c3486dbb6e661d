"""Embedding lookups rebuilt from parts that torch differentiates correctly to second order.

A padding row is a constant in torch's gradient. Here it is one at every order, so that the Hessian is
symmetric: zero in the row's entries, whatever else depends on them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hvplib.ad.decompositions.index import segment_ids
from hvplib.errors import DerivativeError

__all__ = ["embedding", "embedding_bag", "embedding_lookup"]


Constant = Callable[[Tensor], Tensor]


def _refuse(op: str, max_norm: float | None, scale_grad_by_freq: bool) -> None:
    if max_norm is not None:
        raise DerivativeError(
            f"{op} with max_norm={max_norm} changes its weight during the call, so that no derivative "
            "describes it; set max_norm=None (and renormalise the rows once, before).",
            op=op,
        )
    if scale_grad_by_freq:
        raise DerivativeError(
            f"{op} with scale_grad_by_freq=True returns a scaled gradient, which is the gradient of no "
            "function; set scale_grad_by_freq=False.",
            op=op,
        )


def _lookup(indices: Tensor, weight: Tensor, padding_idx: int | None, constant: Constant) -> Tensor:
    rows = F.embedding(indices, weight)
    if padding_idx is None:
        return rows
    return torch.where((indices == padding_idx).unsqueeze(-1), constant(rows), rows)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
    *,
    constant: Constant = Tensor.detach,
) -> Tensor:
    r"""$y_i = W_{k_i}$ (``torch.nn.functional.embedding``), with a dense gradient.

    Args:
        input: Indices ``k``, any shape.
        weight: ``W``, ``(V, D)``.
        padding_idx: The row that is a constant; negative counts from the end.
        max_norm: Refused.
        norm_type: Order of the norm for ``max_norm``.
        scale_grad_by_freq: Refused.
        sparse: Ignored: it chooses how a gradient is stored.
        constant: What makes the padding rows constant.

    Returns:
        ``(*input.shape, D)``.

    Raises:
        DerivativeError: With ``max_norm`` or ``scale_grad_by_freq``.
    """
    _refuse("embedding", max_norm, scale_grad_by_freq)
    if padding_idx is not None:
        if not -weight.shape[0] <= padding_idx < weight.shape[0]:
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx %= weight.shape[0]
    return _lookup(input, weight, padding_idx, constant)


def embedding_lookup(
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
    *,
    constant: Constant = Tensor.detach,
) -> Tensor:
    """``torch.embedding``: the same with the weight first, and -1 for no padding row."""
    _refuse("embedding", None, scale_grad_by_freq)
    return _lookup(indices, weight, None if padding_idx < 0 else padding_idx, constant)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    r"""$y_b = \bigoplus_{i \in \mathrm{bag}\, b} a_i W_{k_i}$ (``torch.nn.functional.embedding_bag``).

    A lookup and a reduction by segments; torch has neither a forward formula nor a double backward for the
    fused one.

    Args:
        input: Indices ``k``, ``(B, N)`` or ``(N,)`` with ``offsets``.
        weight: ``W``, ``(V, D)``.
        offsets: Where each bag begins, ``(B,)``, or ``(B + 1,)`` with ``include_last_offset``.
        max_norm: Refused.
        norm_type: Order of the norm for ``max_norm``.
        scale_grad_by_freq: Refused.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        sparse: Ignored: it chooses how a gradient is stored.
        per_sample_weights: ``a``, shaped like ``input``; with ``mode="sum"`` only.
        include_last_offset: Whether ``offsets`` ends with the end of the last bag.
        padding_idx: A row that no bag counts.

    Returns:
        ``(B, D)``; an empty bag gives zeros.

    Raises:
        DerivativeError: With ``max_norm`` or ``scale_grad_by_freq``.
    """
    _refuse("embedding_bag", max_norm, scale_grad_by_freq)
    if weight.dtype == torch.long and input.is_floating_point():
        input, weight = (
            weight,
            input,
        )  # the order of early versions, which torch still takes
    ragged = input.dim() == 2 and input.is_nested
    wrong_shape = input.dim() not in (1, 2) or (not ragged and (offsets is None) != (input.dim() == 2))
    wrong_weights = per_sample_weights is not None and (
        mode != "sum"
        or per_sample_weights.is_nested != input.is_nested
        or per_sample_weights.dim() != input.dim()
    )
    if wrong_shape or wrong_weights or mode not in ("sum", "mean", "max"):
        return F.embedding_bag(  # raises torch's own error
            input, weight, offsets, mode=mode, per_sample_weights=per_sample_weights
        )
    if ragged:
        offsets, include_last_offset = input.offsets(), True  # type: ignore[attr-defined]
        input = input.values()
        per_sample_weights = None if per_sample_weights is None else per_sample_weights.values()
    elif offsets is None:
        offsets = torch.arange(input.shape[0], device=input.device) * input.shape[1]
    entries = input.reshape(-1)
    bags = offsets.shape[0] - int(include_last_offset)
    bag = segment_ids(offsets, entries.shape[0])
    if padding_idx is not None:
        bag = torch.where(entries == padding_idx % weight.shape[0], bags, bag)
    rows = F.embedding(entries, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1, 1)
    # One more bag takes the padding and what lies beyond the last offset; it is cut off at the end.
    if mode == "max":
        return _bag_maximum(rows, bag, bags + 1)[:bags]
    total = rows.new_zeros(bags + 1, rows.shape[1]).index_add(0, bag, rows)[:bags]
    if mode == "sum":
        return total
    size = torch.zeros(bags + 1, dtype=rows.dtype, device=rows.device).index_add(
        0, bag, torch.ones_like(rows[:, 0])
    )
    return total / size[:bags].clamp_min(1).unsqueeze(1)


def _bag_maximum(rows: Tensor, bag: Tensor, bags: int) -> Tensor:
    """The largest entry of each bag in each column, the first of equal ones; 0 for an empty bag."""
    count, width = rows.shape
    index = bag.unsqueeze(1).expand(count, width)
    values = rows.detach()
    top = values.new_full((bags, width), -torch.inf).scatter_reduce(0, index, values, "amax")
    position = torch.arange(count, device=rows.device).unsqueeze(1).expand(count, width)
    candidate = torch.where(values == top.gather(0, index), position, count)
    winner = position.new_full((bags, width), count).scatter_reduce(0, index, candidate, "amin")
    padded = torch.cat([rows, rows.new_zeros(1, width)])
    return padded.gather(0, winner)
