"""What surrounds every derivative: one lock, Ctrl-C held back, and torch's global settings put right.

Forward-mode differentiation in torch keeps its level in one process-wide variable, and `functional_call`
swaps the parameters of a shared module: two threads at once get exceptions or wrong numbers, and a
KeyboardInterrupt at the wrong instant leaves the level behind and breaks the next call. So each derivative
runs under one lock, with SIGINT recorded and delivered at its end.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

__all__ = ["derivative"]

_lock = threading.RLock()


@contextmanager
def derivative() -> Iterator[None]:
    """Hold the lock and the settings for one derivative; reentrant.

    Ctrl-C is not lost: the user's handler runs as soon as the derivative has ended, with torch in order.
    """
    with _InterruptDeferral(), _lock:
        restore = _enter_settings()
        try:
            if torch.is_inference_mode_enabled():
                with torch.inference_mode(False):
                    yield
            else:
                yield
        finally:
            restore()


class _InterruptDeferral:
    """Records SIGINT inside the block and hands it to the handler that was there, at the end."""

    _active = False  # only the main thread reads and writes it

    def __init__(self) -> None:
        self._previous: Any = None
        self._pending: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or _InterruptDeferral._active or signal.getsignal(signal.SIGINT) is None:
            return
        # From the moment that `signal.signal` returns, an interrupt can only be recorded.
        self._previous = signal.signal(signal.SIGINT, self._record)
        _InterruptDeferral._active = True

    def __exit__(self, *exc_info: object) -> None:
        if self._previous is None:
            return
        _InterruptDeferral._active = False
        signal.signal(signal.SIGINT, self._previous)
        if self._pending is None:
            return
        if callable(self._previous):
            self._previous(*self._pending)
        else:
            signal.raise_signal(signal.SIGINT)

    def _record(self, signum: int, frame: FrameType | None) -> None:
        self._pending = (signum, frame)


def _enter_settings() -> Callable[[], None]:
    """Turn off what makes derivatives wrong, and return the function that turns it on again."""
    # The profiling executor specialises a scripted function after its first call, and its derivatives are
    # then wrong without a word.
    optimize = torch._C._get_graph_executor_optimize()
    torch._C._set_graph_executor_optimize(False)
    put_back = _bypass_checkpoint()

    def restore() -> None:
        put_back()
        torch._C._set_graph_executor_optimize(optimize)

    return restore


def _bypass_checkpoint() -> Callable[[], None]:
    """Let `torch.utils.checkpoint.checkpoint` call its function straight through.

    Its recomputation in the backward pass reads the module's own parameters, also where `functional_call` had
    put in others: even the first gradient is wrong then. These two names are what `checkpoint` looks up in
    its module when it is called, however it was imported.
    """
    module: Any = sys.modules.get("torch.utils.checkpoint")
    if module is None:
        return lambda: None
    saved = module.CheckpointFunction, module._checkpoint_without_reentrant_generator
    module.CheckpointFunction = _StraightThrough
    module._checkpoint_without_reentrant_generator = _straight_generator

    def put_back() -> None:
        module.CheckpointFunction, module._checkpoint_without_reentrant_generator = saved

    return put_back


class _StraightThrough:
    """Stands in for the autograd function of reentrant checkpointing."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


def _straight_generator(*_args: Any, **_kwargs: Any) -> Iterator[None]:
    """Stands in for the two halves (before, after) of non-reentrant checkpointing."""
    yield
