"""Vectors held as lists of tensors: sums and norms in double precision."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["all_finite", "coarsest", "distance", "dot", "entry_size", "moved", "norm", "relative_error"]

# Entries that are brought to double precision at a time: copies of whole vectors would decide how much memory
# the checks of a large model take.
_PIECE = 2**18
# Where there are no more numbers than this, it is the number of tensors that counts.
_FEW = 2**14


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """⟨left, right⟩."""
    return sum(_total([(a * b).sum() for a, b in _pieces(x, y)]) for x, y in zip(left, right, strict=True))


def norm(tensors: Sequence[Tensor]) -> float:
    """Euclidean norm."""
    return math.sqrt(sum(_square(t) for t in tensors))


def distance(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """‖left − right‖."""
    squares = (
        _total([(a - b).square().sum() for a, b in _pieces(x, y)]) for x, y in zip(left, right, strict=True)
    )
    return math.sqrt(sum(squares))


def relative_error(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """‖left − right‖ / max(‖left‖, ‖right‖), 0 where both vanish."""
    if _are_few(left, right):
        x, y = _joined(left), _joined(right)
        off, one, other = torch.linalg.vector_norm(torch.stack([x - y, x, y]), dim=1).tolist()
    else:
        off = distance(left, right)
        one, other = (norm(left), norm(right)) if off != 0 else (0.0, 0.0)
    return 0.0 if off == 0 else float(off / (max(one, other) or math.nan))


def entry_size(tensors: Sequence[Tensor]) -> float:
    """The root mean square of the entries, and not below 0.01: a scale for steps and for rounding."""
    count = sum(t.numel() for t in tensors)
    return max(norm(tensors) / math.sqrt(max(count, 1)), 1e-2)


def moved(tensors: Sequence[Tensor], directions: Sequence[Tensor], step: float) -> list[Tensor]:
    """tensors + step · directions."""
    return [torch.add(x, v, alpha=step) for x, v in zip(tensors, directions, strict=True)]


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every number is finite; one pass, and a second only where the sum is not."""
    return all(math.isfinite(float(t.detach().sum())) or bool(t.detach().isfinite().all()) for t in tensors)


def coarsest(tensors: Sequence[Tensor], also: Collection[torch.dtype] = ()) -> torch.dtype:
    """The dtype with the largest rounding error, among those of the tensors and others."""
    return max((*(x.dtype for x in tensors), *also), key=lambda dtype: torch.finfo(dtype).eps)


def _square(tensor: Tensor) -> float:
    """‖tensor‖²."""
    if tensor.dtype == torch.float64 and tensor.is_contiguous():
        flat = tensor.detach().view(-1)
        return float(torch.dot(flat, flat))
    return _total([a.square().sum() for (a,) in _pieces(tensor)])


def _are_few(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Whether both are better joined."""
    few = sum(t.numel() for t in left) <= _FEW
    return few and len({(t.dtype, t.device) for t in (*left, *right)}) == 1


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One vector, in double precision."""
    flat = [t.detach().reshape(-1) for t in tensors]
    return (flat[0] if len(flat) == 1 else torch.cat(flat)).double()


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same entries of tensors of one shape, in double precision, so many at a time."""
    if tensors[0].numel() <= _PIECE:
        yield tuple(t.detach().double() for t in tensors)
        return
    for parts in zip(*(torch.split(t.detach().reshape(-1), _PIECE) for t in tensors), strict=True):
        yield tuple(part.double() for part in parts)


def _total(parts: list[Tensor]) -> float:
    """Their sum, brought to the host at once."""
    return float(parts[0] if len(parts) == 1 else torch.stack(parts).sum())
