"""The thread that runs users' callbacks: they may block, and may wait for other futures."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

Call = Callable[[], object]


class Callbacks:
    """Calls one after the other, in a thread that starts with the first."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call | None] | None = None

    def put(self, call: Call) -> None:
        """Call it soon."""
        if self._calls is None:
            self._calls = SimpleQueue()
            threading.Thread(
                target=_call, args=(self._calls,), name="zmqtasks-callbacks", daemon=True
            ).start()
        self._calls.put(call)

    def close(self) -> None:
        """Nothing follows."""
        if self._calls is not None:
            self._calls.put(None)


def _call(calls: SimpleQueue[Call | None]) -> None:
    while (call := calls.get()) is not None:
        try:
            call()
        except Exception:
            logging.getLogger("zmqtasks").exception("a done callback raised")
        call = None
