"""An end in time for estimates that are told of each block of products."""

from __future__ import annotations

import time
from dataclasses import replace

from hvplib.estimate.arguments import check_time
from hvplib.estimate.averaged import Callback
from hvplib.estimate.found import Found
from hvplib.results.estimate import EstimateProgress
from hvplib.results.status import Status

__all__ = ["Deadline"]


class Deadline:
    """A callback that asks to stop when the time is over, and passes on what another one answers.

    Args:
        time_limit: Seconds from now, or None.
        callback: The user's, or None.

    Raises:
        ValueError: The time limit is not positive.
    """

    def __init__(self, time_limit: float | None, callback: Callback | None) -> None:
        self._end, self._callback = time.monotonic() + check_time(time_limit), callback
        self._came = False

    def __call__(self, progress: EstimateProgress) -> bool:
        if self._callback is not None and self._callback(progress):
            return True
        self._came = time.monotonic() >= self._end
        return self._came

    def told(self, found: Found) -> Found:
        """What was found, with the status of a time that is over if that has ended it."""
        ended = self._came and found.status is Status.STOPPED
        return replace(found, status=Status.TIME_LIMIT) if ended else found
