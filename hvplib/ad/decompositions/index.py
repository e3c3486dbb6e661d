"""Reductions by index and by segment, rebuilt from parts that torch differentiates correctly to second order.

Nothing here waits for the device: shapes depend on shapes only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "index_reduce",
    "index_reduce_",
    "scatter_reduce",
    "scatter_reduce_",
    "segment_ids",
    "segment_reduce",
]


def _segment_product(values: Tensor, index: Tensor, dim: int, shape: torch.Size) -> Tensor:
    """Products of the values that share an index along ``dim``; 0 where no value goes.

    The entries are sorted by index and multiplied by a segmented scan (Hillis and Steele, 1986,
    doi:10.1145/7902.7903): products only, so zeros among the factors need no special case at any order.
    """
    order = index.argsort(dim=dim, stable=True)
    index, values = (
        index.gather(dim, order).movedim(dim, -1),
        values.gather(dim, order).movedim(dim, -1),
    )
    count = index.shape[-1]
    reach = 1
    while reach < count:
        same = index[..., reach:] == index[..., :-reach]
        factor = torch.where(same, values[..., :-reach], 1)
        values = torch.cat([values[..., :reach], values[..., reach:] * factor], -1)
        reach *= 2
    last = F.pad(index[..., 1:] != index[..., :-1], (0, 1), value=True)
    # One entry per segment is not zero, so that this sum only puts products in their places.
    products = torch.where(last, values, 0).movedim(-1, dim)
    empty = torch.zeros(shape, dtype=products.dtype, device=products.device)
    return empty.scatter_add(dim, index.movedim(-1, dim), products)


def _scatter_product(input: Tensor, dim: int, index: Tensor, src: Tensor, include_self: bool) -> Tensor:
    if input.dim() == 0:
        return _scatter_product(
            input.reshape(1), 0, index.reshape(-1), src.reshape(-1), include_self
        ).reshape(())
    if index.numel() == 0:
        return input.clone()
    src = src[tuple(slice(size) for size in index.shape)]
    products = _segment_product(src, index, dim, input.shape)
    reached = torch.zeros(input.shape, dtype=torch.bool, device=input.device).scatter(dim, index, True)
    return torch.where(reached, products * input if include_self else products, input)


def _same_floating(input: Tensor, source: Tensor) -> bool:
    """Whether there is something to differentiate, and torch would not object to the types."""
    return input.is_floating_point() and source.dtype == input.dtype


def scatter_reduce(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Tensor:
    r"""$y_j = x_j \oplus \bigoplus_{i:\, \mathrm{index}_i = j} s_i$ (``torch.scatter_reduce``).

    Only ``reduce="prod"`` is rebuilt: its forward over reverse is wrong by its own size, though symmetric.

    Args:
        input: The tensor reduced into, any shape.
        dim: The dimension that ``index`` runs over.
        index: Integer tensor with as many dimensions as ``input``.
        src: The values, at least as large as ``index`` in every dimension.
        reduce: ``"sum"``, ``"prod"``, ``"mean"``, ``"amax"`` or ``"amin"``.
        include_self: Whether ``input`` takes part in the reduction.

    Returns:
        A tensor shaped like ``input``.
    """
    if reduce != "prod" or not _same_floating(input, src):
        return torch.scatter_reduce(input, dim, index, src, reduce, include_self=include_self)
    return _scatter_product(input, dim, index, src, include_self)


def scatter_reduce_(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Tensor:
    """``scatter_reduce`` in place: ``x.copy_(scatter_reduce(x, ...))``, with the same arguments."""
    return input.copy_(scatter_reduce(input.clone(), dim, index, src, reduce, include_self=include_self))


def index_reduce(
    input: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Tensor:
    r"""$y_{j} = x_{j} \oplus \bigoplus_{i:\, \mathrm{index}_i = j} s_i$ by slices (``torch.index_reduce``).

    It is ``scatter_reduce`` with one index for a whole slice; torch has no forward formula for it.

    Args:
        input: The tensor reduced into, any shape.
        dim: The dimension that ``index`` runs over.
        index: Integer tensor, ``(k,)`` or 0-d.
        source: The values, with ``k`` slices along ``dim``.
        reduce: ``"prod"``, ``"mean"``, ``"amax"`` or ``"amin"``.
        include_self: Whether ``input`` takes part in the reduction.

    Returns:
        A tensor shaped like ``input``.
    """
    if reduce not in ("prod", "mean", "amax", "amin") or not _same_floating(input, source):
        return torch.index_reduce(input, dim, index, source, reduce, include_self=include_self)
    if input.dim() == 0:
        flat = index_reduce(
            input.reshape(1),
            0,
            index.reshape(-1),
            source.reshape(-1),
            reduce,
            include_self=include_self,
        )
        return flat.reshape(())
    column = [1] * input.dim()
    column[dim] = -1
    full = index.reshape(column).to(torch.int64).expand(source.shape)
    return scatter_reduce(input, dim, full, source, reduce, include_self=include_self)


def index_reduce_(
    input: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Tensor:
    """``index_reduce`` in place: ``x.copy_(index_reduce(x, ...))``, with the same arguments."""
    return input.copy_(index_reduce(input.clone(), dim, index, source, reduce, include_self=include_self))


def segment_ids(offsets: Tensor, count: int) -> Tensor:
    """The segment of each of ``count`` positions, for segments that begin at ``offsets`` (last dimension).

    Args:
        offsets: ``(..., S)``, not decreasing.
        count: Number of positions.

    Returns:
        Integer tensor ``(..., count)``; an empty segment gets no position.
    """
    positions = torch.arange(count, dtype=offsets.dtype, device=offsets.device)
    positions = positions.expand(*offsets.shape[:-1], count).contiguous()
    return torch.searchsorted(offsets.contiguous(), positions, right=True) - 1


_SEGMENT_REDUCTIONS = {
    "sum": "sum",
    "mean": "mean",
    "max": "amax",
    "min": "amin",
    "prod": "prod",
}
_SEGMENT_NEUTRAL = {
    "sum": 0.0,
    "mean": float("nan"),
    "max": float("-inf"),
    "min": float("inf"),
    "prod": 1.0,
}


def segment_reduce(
    data: Tensor,
    reduce: str,
    *,
    lengths: Tensor | None = None,
    indices: Tensor | None = None,
    offsets: Tensor | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: float | None = None,
) -> Tensor:
    r"""$y_s = \bigoplus_{i \in \mathrm{segment}\, s} x_i$ (``torch.segment_reduce``: no double backward).

    Args:
        data: Any shape; reduced along ``axis``.
        reduce: ``"sum"``, ``"mean"``, ``"max"``, ``"min"`` or ``"prod"``.
        lengths: Lengths of the segments, ``(*data.shape[:axis], S)``.
        indices: Not supported, as in torch.
        offsets: Or their ends, ``(*data.shape[:axis], S + 1)``.
        axis: The dimension reduced.
        unsafe: Whether torch's check of the lengths is left out.
        initial: Start value of every segment; without it an empty one gives the neutral value, and
            NaN for a mean.

    Returns:
        ``data`` with ``S`` entries along ``axis``.
    """
    if not unsafe or indices is not None or (lengths is None and offsets is None):
        with torch.no_grad():  # for torch's own checks of the arguments
            torch.segment_reduce(
                data.detach(),
                reduce,
                lengths=lengths,
                indices=indices,
                offsets=offsets,
                axis=axis,
                unsafe=unsafe,
            )
    if offsets is None:
        assert lengths is not None
        offsets = F.pad(lengths.cumsum(-1), (1, 0))
    segments, count = offsets.shape[-1] - 1, data.shape[axis]
    shape = (*data.shape[:axis], segments, *data.shape[axis + 1 :])
    # One more segment takes what lies beyond the last offset and is cut off again.
    room = (*data.shape[:axis], segments + 1, *data.shape[axis + 1 :])
    start = initial if initial is not None else _SEGMENT_NEUTRAL[reduce]
    ids = segment_ids(offsets, count).reshape(*data.shape[: axis + 1], *[1] * (data.dim() - axis - 1))
    base = torch.full(room, start, dtype=data.dtype, device=data.device)
    kind = _SEGMENT_REDUCTIONS[reduce]
    if kind == "mean":
        # The start value of a mean joins the sum but is not counted.
        total = torch.scatter_reduce(torch.zeros_like(base), axis, ids.expand(data.shape), data, "sum")
        size = torch.scatter_reduce(
            torch.zeros_like(base),
            axis,
            ids.expand(data.shape),
            torch.ones_like(data),
            "sum",
        )
        filled = (total + (initial or 0.0)) / size.clamp_min(1)
        result = torch.where(size > 0, filled, base)
    else:
        result = scatter_reduce(base, axis, ids.expand(data.shape), data, kind)
    return result.narrow(axis, 0, segments).reshape(shape)
