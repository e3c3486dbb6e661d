"""Batches of any structure: what may be iterated, how many examples they hold, whether they stay the same."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["changed", "check_data", "example_count", "fingerprint", "length"]


def check_data(data: Any) -> None:
    """Raise unless `data` is a re-iterable of batches, or None."""
    if data is None:
        return
    if isinstance(data, Tensor | np.ndarray | Mapping | str):
        raise TypeError(
            f"data must be an iterable of batches, got one {type(data).__name__}; "
            "for a single batch pass [batch]"
        )
    if isinstance(data, tuple) and any(isinstance(item, Tensor) for item in data):
        raise TypeError(
            "data must be an iterable of batches, got a tuple of tensors, which looks like one batch; "
            "pass [(x, y)] for a single batch"
        )
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise TypeError(f"data must be an iterable of batches, got {type(data).__name__}")
    if isinstance(data, Iterator):
        raise TypeError(
            "data can be iterated only once (it is an iterator or generator), but every product may need "
            "another pass; pass list(data), or an object that starts anew at each iteration"
        )


def example_count(batch: Any) -> int:
    """The leading dimension of the first tensor in the batch, in depth-first order."""
    for leaf in _leaves(batch):
        if isinstance(leaf, Tensor | np.ndarray):
            if leaf.ndim == 0:
                break
            return int(leaf.shape[0])
    raise ValueError(
        f"cannot tell the number of examples of a batch of type {type(batch).__name__}: its first tensor has "
        "no leading dimension, or there is none; return (loss, weight) from the loss, or pass weight="
    )


def _leaves(batch: Any) -> Iterator[Any]:
    """What a nest of mappings, sequences and objects with attributes holds, in order."""
    if isinstance(batch, Mapping) or (hasattr(batch, "keys") and hasattr(batch, "__getitem__")):
        for key in batch.keys():  # noqa: SIM118 (a batch may have keys without being iterable by them)
            yield from _leaves(batch[key])
    elif isinstance(batch, list | tuple):
        for item in batch:
            yield from _leaves(item)
    elif hasattr(batch, "__dict__") and not isinstance(batch, Tensor | type) and not callable(batch):
        for item in vars(batch).values():
            yield from _leaves(item)
    else:
        yield batch


def fingerprint(batch: Any) -> int:
    """A checksum of all numbers in a batch."""
    checksum = 0
    for leaf in _leaves(batch):
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
            leaf = leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        if isinstance(leaf, np.ndarray) and leaf.dtype != object:
            checksum = zlib.crc32(leaf.tobytes(), checksum)
        elif isinstance(leaf, str | bytes | int | float):
            checksum = zlib.crc32(repr(leaf).encode(), checksum)
    return checksum


def changed(data: Any, found: str) -> str:
    """The message for data that came out otherwise at a later pass, with the likely cause."""
    sampler = type(getattr(data, "sampler", None)).__name__
    cause = (
        f"the loader shuffles (its sampler is a {sampler} with a generator of its own)"
        if "Random" in sampler
        else "it may shuffle, augment at random, or have been changed"
    )
    return (
        f"data is not the same at each pass: a later pass gave {found}; {cause}. A Hessian needs fixed data: "
        "pass a loader with shuffle=False, or freeze one pass with data=list(loader)"
    )


def length(data: Any) -> int | None:
    """The number of batches, where it is known beforehand."""
    if data is None:
        return 1
    try:
        return len(data)
    except TypeError:
        return None
