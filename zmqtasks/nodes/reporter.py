"""Progress on its way to the host: the last word counts, and goes out ten times a second at most."""

from __future__ import annotations

import threading
from collections.abc import Callable

from zmqtasks.wire import Progress

_EVERY_S = 0.1


class Reporter:
    """Sends the last report, from a thread of its own, and what is held back at the end of the task."""

    def __init__(self, send: Callable[[Progress], None]) -> None:
        self._send = send
        self._last: dict[int, Progress] = {}  # by task: several may run at a time
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._pause = threading.Event()  # never set: its wait is the pause
        threading.Thread(target=self._run, name="zmqtasks-progress", daemon=True).start()

    def put(self, report: Progress) -> None:
        """Say this, unless more is said before it goes out."""
        with self._lock:
            self._last[report.id] = report
        if not self._some.is_set():
            self._some.set()

    def send(self) -> None:
        """Send what was put and has not gone out."""
        with self._lock:
            last, self._last = self._last, {}
            for report in last.values():
                self._send(report)

    def _run(self) -> None:
        while self._some.wait():
            self.send()
            self._pause.wait(_EVERY_S)
            self._some.clear()
            if self._last is not None:
                self._some.set()
