"""Being told to stop: the step in progress is finished first, so that what is kept is whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefopt.engine.ranks import Ranks

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A scheduler tells the launcher and the processes, and the launcher passes on what it was told: one request, not two.
_SAME_SECONDS = 3.0


class Stop:
    """Whether any process of the run was told to stop."""

    def __init__(self, ranks: Ranks) -> None:
        """Nobody was, so far."""
        self._ranks = ranks
        self._told = False
        self._told_at = 0.0

    def tell(self, *_: Any) -> None:
        """Stop after this step; told a second time, at once."""
        now = time.monotonic()
        if self._told and now - self._told_at > _SAME_SECONDS:
            raise KeyboardInterrupt
        if not self._told:
            self._told, self._told_at = True, now

    def told(self) -> bool:
        """Asked by every process after the same step."""
        return self._ranks.any(self._told)


@contextmanager
def stopping_between_steps(ranks: Ranks) -> Iterator[Stop]:
    """While open, Ctrl-C and SIGTERM ask for a stop between two steps, and a second one stops at once."""
    stop = Stop(ranks)
    if threading.current_thread() is not threading.main_thread():  # only there may signals be handled
        yield stop
        return
    before = {number: signal.signal(number, stop.tell) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
