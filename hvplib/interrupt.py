"""Ctrl-C as something to be asked for, so that what was found so far can be returned."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Interrupt"]


class Interrupt:
    """Takes note of Ctrl-C where Python would raise by itself; a second one raises.

    Does nothing outside the main thread, and where the program has a handler of its own.

    Attributes:
        came: Whether there was one.
        insisted: Whether there was a second one, which has raised KeyboardInterrupt.

    Example:
        >>> with Interrupt() as interrupt:
        ...     print(interrupt.came)
        False
    """

    def __init__(self) -> None:
        self.came = self.insisted = False
        self._previous: Any = None

    def __enter__(self) -> Interrupt:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.came:
            self.insisted = True
            raise KeyboardInterrupt
        self.came = True
