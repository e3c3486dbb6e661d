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

__all__ = ["derivative", "interrupts_between_derivatives"]

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


@contextmanager
def interrupts_between_derivatives() -> Iterator[None]:
    """Let Ctrl-C in only where a derivative inside the block has ended, or the block itself.

    For work that changes the user's state between its derivatives, and puts it back when it fails: what puts
    it back cannot be cut short itself.
    """
    with _InterruptDeferral(between=True):
        yield


class _InterruptDeferral:
    """Records SIGINT inside the block and hands it to the handler that was there, at the end.

    Args:
        between: Whether it is handed over at the end of each block inside this one as well.
    """

    # The outermost block; only the main thread reads and writes it.
    _outermost: _InterruptDeferral | None = None

    def __init__(self, *, between: bool = False) -> None:
        self._between = between
        self._host: _InterruptDeferral | None = None
        self._previous: Any = None
        self._pending: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        outermost = _InterruptDeferral._outermost
        if outermost is not None:
            if outermost._between:
                self._host, outermost._between = outermost, False
            return
        if signal.getsignal(signal.SIGINT) is None:
            return
        # From the moment that `signal.signal` returns, an interrupt can only be recorded.
        self._previous = signal.signal(signal.SIGINT, self._record)
        _InterruptDeferral._outermost = self

    def __exit__(self, *exc_info: object) -> None:
        if self._host is not None:
            self._host._between = True
            self._host._deliver()
        if self._previous is None:
            return
        _InterruptDeferral._outermost = None
        signal.signal(signal.SIGINT, self._previous)
        self._deliver()

    def _deliver(self) -> None:
        """Hand over what came, if anything."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if callable(self._previous):
            self._previous(*pending)
            return
        # Python knows no handler: the system's own way, which is to end the process, or to do nothing.
        handler = signal.signal(signal.SIGINT, self._previous)
        signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, handler)

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
