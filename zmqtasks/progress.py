"""A progress bar over futures: which have finished, how fast they finish, and how many failed.

The bar is drawn by rich where standard error is a terminal. Elsewhere (a log, a pipe, a notebook) a
line is written every few seconds, and rich is never imported.
"""

from __future__ import annotations

import os
import queue
import sys
import time
from collections.abc import Sized
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from rich.progress import Progress, ProgressColumn, Task

    _F = TypeVar("_F", bound=Future[Any])

LINE_INTERVAL_S = 5.0
"""Seconds between two lines of progress where standard error is no terminal."""

_DRAW_INTERVAL_S = 0.05
_TICK_S = 0.5
_WIDTH_MAX = 100


def progress_bar(futures: Iterable[_F], description: str = "", total: int | None = None) -> Iterator[_F]:
    """Yield the futures as they complete, each once, while standard error shows how far they are.

    `futures` is any iterable of `concurrent.futures.Future`, of one executor or of several; it is read to
    its end before the first future is yielded, as in `concurrent.futures.as_completed`. `total` is only
    for the bar, where the number of futures cannot be known beforehand. Futures that failed or were
    cancelled are counted as failures and yielded like the others: `result()` raises in the caller's loop.
    The display ends with the loop, however that ends.

        for future in progress_bar(client.submit_many(parse, paths), "parsing"):
            print(future.result())
    """
    if total is None and isinstance(futures, Sized):
        total = len(futures)
    finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with meter(description, total) as shown:
        waiting: set[_F] = set()
        for future in futures:
            if future not in waiting:
                waiting.add(future)
                future.add_done_callback(finished.put)
        if total is None:
            shown.expect(len(waiting))
        while waiting:
            try:
                future = finished.get_nowait()
            except queue.Empty:
                shown.draw()
                try:
                    future = finished.get(timeout=_TICK_S)
                except queue.Empty:
                    continue
            waiting.remove(future)
            shown.advance(failed=future.cancelled() or future.exception() is not None)
            yield future


class Meter(Protocol):
    """What shows a count growing towards a total, between entering and leaving it as a context."""

    def __enter__(self) -> Self:
        """Start to show."""

    def __exit__(self, *exc: object) -> None:
        """Show the last state and stop."""

    def expect(self, total: int) -> None:
        """Say what the total is, once that is known."""

    def advance(self, *, failed: bool = False) -> None:
        """Count one more, which costs well under a microsecond unless something is due to be shown."""

    def draw(self) -> None:
        """Show what was counted so far, if anything is due."""


def meter(description: str = "", total: int | None = None) -> Meter:
    """Return a bar where standard error is a terminal that can draw one, and a writer of lines elsewhere."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if terminal and os.environ.get("TERM") not in {"dumb", "unknown"}:
        return _Bar(description, total)
    return _Lines(description, total)


class _Lines:
    """Progress as lines: one every `LINE_INTERVAL_S` while something moves, and one at the end."""

    def __init__(self, description: str, total: int | None) -> None:
        self._prefix = f"{description}: " if description else ""
        self._total = total
        self._done = self._failed = self._written = 0
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        elapsed = time.monotonic() - self._start
        self._write(f"{_count(self._done, self._total)} in {elapsed:.1f} s", elapsed)

    def expect(self, total: int) -> None:
        self._total = total

    def advance(self, *, failed: bool = False) -> None:
        self._done += 1
        self._failed += failed
        self.draw()

    def draw(self) -> None:
        now = time.monotonic()
        if now - self._last < LINE_INTERVAL_S or self._done in {self._written, self._total}:
            return
        self._last, self._written = now, self._done
        elapsed = now - self._start
        share = f" ({100 * self._done // self._total}%)" if self._total else ""
        left = f"{elapsed * (self._total - self._done) / self._done:.0f} s left" if self._total else ""
        self._write(_count(self._done, self._total) + share, elapsed, left)

    def _write(self, what: str, elapsed: float, left: str = "") -> None:
        rate = _rate(self._done / elapsed) if self._done and elapsed > 0 else ""
        failed = f"{self._failed:,} failed" if self._failed else ""
        if sys.stderr is not None:
            line = ", ".join(part for part in (what, rate, left, failed) if part)
            sys.stderr.write(f"{self._prefix}{line}\n")
            sys.stderr.flush()


class _Bar:
    """Progress as a bar on the terminal, drawn ten times a second by rich."""

    def __init__(self, description: str, total: int | None) -> None:
        self._progress = _rich_progress()
        self._task = self._progress.add_task(description, total=total, failed=0)
        self._done = self._failed = 0
        self._last = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.draw()
        self._progress.stop()

    def expect(self, total: int) -> None:
        self._progress.update(self._task, total=total)

    def advance(self, *, failed: bool = False) -> None:
        self._done += 1
        self._failed += failed
        if time.monotonic() - self._last >= _DRAW_INTERVAL_S:
            self.draw()

    def draw(self) -> None:
        self._last = time.monotonic()
        self._progress.update(self._task, completed=self._done, failed=self._failed)


def _rich_progress() -> Progress:
    """Return rich's display with our columns, which fit 80 characters and go no wider than 100."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            total = "?" if task.total is None else f"{task.total:,.0f}"
            return Text(f"{task.completed:,.0f}/{total}", style="progress.download", justify="right")

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(_rate(speed) if speed else "", style="progress.data.speed", justify="right")

    class Failures(ProgressColumn):
        def render(self, task: Task) -> Text:
            failed = task.fields["failed"]
            return Text(f"{failed:,} failed" if failed else "", style="bold red")

    console = Console(stderr=True)
    console.width = min(console.width, _WIDTH_MAX)
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        Count(),
        Rate(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        Failures(),
    ]
    return Progress(*columns, console=console, expand=True)


def _count(done: int, total: int | None) -> str:
    return f"{done:,}" if total is None else f"{done:,} of {total:,}"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"
