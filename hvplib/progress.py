"""Progress bars, where they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

__all__ = ["bar"]

T = TypeVar("T")


def bar(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """`items`, with a bar on standard error that disappears at the end.

    Raises:
        ImportError: tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            "a progress bar needs tqdm: `pip install hvplib[progress]`, or pass progress=False"
        ) from error
    shown: Iterable[T] = tqdm(items, desc=description, total=total, leave=False)
    return shown
