"""Copies to other places: splits, strided writes and unpooling, twice differentiable and correctly so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "as_strided_scatter",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "tensor_split",
]


def tensor_split(
    input: Tensor, indices_or_sections: Tensor | int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """``torch.tensor_split``, with tensor indices read as numbers first: torch reads them too late.

    Args:
        input: The tensor to split.
        indices_or_sections: Number of parts (int or 0-d tensor), or where to cut (sequence or 1-d tensor).
        dim: The dimension to split along.

    Returns:
        Views of ``input``.
    """
    if isinstance(indices_or_sections, Tensor):
        indices_or_sections = indices_or_sections.tolist()
    return torch.tensor_split(input, indices_or_sections, dim)


def as_strided_scatter(
    input: Tensor,
    src: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Tensor:
    """``input`` with ``src`` written where ``input.as_strided(size, stride, storage_offset)`` lies.

    Positions in the storage are translated into positions in the tensor. Torch's own gradient of
    ``torch.as_strided_scatter`` is zero in the wrong entries of ``input``.

    Args:
        input: Any tensor without overlap in memory.
        src: Values, of shape ``size``.
        size: Shape of the view that is written.
        stride: Its strides, in elements.
        storage_offset: Its beginning; by default that of ``input``.

    Returns:
        A tensor shaped like ``input``.
    """
    if src.shape != torch.Size(size):
        return torch.as_strided_scatter(input, src, size, stride, storage_offset)  # raises torch's own error
    begin = input.storage_offset() if storage_offset is None else storage_offset
    here, end = _storage_positions(input.shape, input.stride(), int(input.storage_offset()), input.device)
    written, end_written = _storage_positions(size, stride, int(begin), input.device)
    # What is written into gaps of the storage goes to one extra entry at the end, which is dropped.
    place = torch.full((max(end, end_written),), input.numel(), device=input.device)
    place[here] = torch.arange(input.numel(), device=input.device)
    target = place[written]
    kept = torch.ones(input.numel() + 1, dtype=torch.bool, device=input.device).index_fill(0, target, False)
    spread = src.new_zeros(input.numel() + 1).index_add(0, target, src.reshape(-1))
    return torch.where(kept[:-1], input.reshape(-1), spread[:-1]).reshape(input.shape)


def _storage_positions(
    size: Sequence[int], stride: Sequence[int], offset: int, device: torch.device
) -> tuple[Tensor, int]:
    """Where each element lies in the storage, and the end of the last one."""
    positions, end = torch.full((), offset, device=device), offset + 1
    for length, step in zip(size, stride, strict=True):
        positions = positions.unsqueeze(-1) + step * torch.arange(length, device=device)
        end += max(length - 1, 0) * step
    return positions.reshape(-1), end


def _max_unpool(input: Tensor, indices: Tensor, output_size: Sequence[int]) -> Tensor:
    """``out[indices] = input`` over the flattened last dimensions; of equal indices the last entry counts.

    torch gives every one of them the gradient of that place, which is not the derivative of the value.
    """
    spatial = len(output_size)
    values, where = input.flatten(-spatial), indices.flatten(-spatial)
    flat = torch.Size((*values.shape[:-1], torch.Size(output_size).numel()))
    position = torch.arange(values.shape[-1], device=input.device).expand(where.shape)
    last = torch.full(flat, -1, device=input.device).scatter_reduce(-1, where, position, "amax")
    kept = torch.where(last.gather(-1, where) == position, values, 0)
    out = torch.zeros(flat, dtype=input.dtype, device=input.device).scatter_add(-1, where, kept)
    return out.reshape(*values.shape[:-1], *output_size)


def _max_unpool_nd(
    spatial: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    output_size: Sequence[int] | None,
) -> Tensor:
    kernel, steps, pads = (
        [value] * spatial if isinstance(value, int) else list(value)
        for value in (kernel_size, kernel_size if stride is None else stride, padding)
    )
    size = F._unpool_output_size(  # type: ignore[attr-defined]
        input, kernel, steps, pads, None if output_size is None else list(output_size)
    )
    return _max_unpool(input, indices, size)


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """``F.max_unpool1d``: the pooled values ``(..., C, L)`` at the places they came from."""
    return _max_unpool_nd(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """``F.max_unpool2d``: the pooled values ``(..., C, H, W)`` at the places they came from."""
    return _max_unpool_nd(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """``F.max_unpool3d``: the pooled values ``(..., C, D, H, W)`` at the places they came from.

    Torch's own double backward is wrong where places repeat.
    """
    return _max_unpool_nd(3, input, indices, kernel_size, stride, padding, output_size)
