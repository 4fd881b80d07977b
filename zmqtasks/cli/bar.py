"""The bar of `zmqtasks ventilator` on a terminal, drawn by rich."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from zmqtasks.stream.progress import Pace, Snapshot

_DRAW_S = 0.1


class Bar:
    """Progress as a bar with a line beside it; at the end the line alone is left."""

    def __init__(self, console: Console) -> None:
        self._pace = Pace(time.monotonic)
        self._drawn = 0.0
        self._bar = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            auto_refresh=False,  # no thread: it is drawn as results come
        )
        self._task = self._bar.add_task("", total=None)
        self._bar.start()

    def show(self, snapshot: Snapshot) -> None:
        """Draw it, if that is due."""
        now = self._pace.see(snapshot)
        if now - self._drawn >= _DRAW_S:
            self._drawn = now
            self._bar.update(
                self._task,
                total=snapshot.expected,
                completed=snapshot.done,
                description=self._pace.line(now),
                refresh=True,
            )

    def close(self, snapshot: Snapshot) -> None:
        """Take it away, and say what was done."""
        now = self._pace.see(snapshot)
        self._bar.stop()
        self._bar.console.out(self._pace.summary(now), highlight=False)
