"""How far a pipeline's run is, and how that is put in a line. What draws it is elsewhere; time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

LINE_INTERVAL_S = 5.0
"""Seconds between two lines of progress where there is no terminal."""

_SAMPLE_S = 0.5
_RATE_S = 20.0  # over how long a rate is taken: long enough to be read, short enough to be that of now


class Snapshot(NamedTuple):
    """A run at one moment. Inputs that an earlier run has done (`kept`) are not in the other numbers.

    `window` inputs are read and have no result yet. `bytes_done` of the `bytes_total` of all files are read; None, as
    for `total`, if there is no telling.
    """

    done: int = 0
    failed: int = 0
    total: int | None = None
    bytes_done: int = 0
    bytes_total: int | None = None
    workers: int = 0
    window: int = 0
    kept: int = 0

    @property
    def expected(self) -> float | None:
        """How many inputs there will have been in the end, without those that are kept."""
        if self.total is not None:
            return self.total
        if not (self.bytes_total and self.bytes_done):
            return None
        read = self.done + self.window + self.kept
        return max(read * self.bytes_total / self.bytes_done - self.kept, self.done)


class Pace:
    """How fast results come, and when the last will be there; `started` and what `clock` gives are seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.started = clock()
        self.snapshot = Snapshot()
        self._samples: deque[tuple[float, int]] = deque([(self.started, 0)])

    def see(self, snapshot: Snapshot) -> float:
        """Take in how far it is now, and return the time."""
        now = self._clock()
        self.snapshot = snapshot
        if now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now, snapshot.done))
            while now - self._samples[1][0] > _RATE_S:
                self._samples.popleft()
        return now

    def rate(self, now: float) -> float | None:
        """Results a second of late; None before that means anything."""
        since, done = self._samples[0]
        if now - since < _SAMPLE_S or self.snapshot.done <= done:
            return None
        return (self.snapshot.done - done) / (now - since)

    def left_s(self, now: float) -> float | None:
        """Seconds until the end, if it goes on so; None if there is no telling."""
        rate, expected = self.rate(now), self.snapshot.expected
        return None if rate is None or expected is None else max(0.0, expected - self.snapshot.done) / rate

    def line(self, now: float) -> str:
        """Return all of it in a line."""
        seen = self.snapshot
        rate, left_s, expected = self.rate(now), self.left_s(now), seen.expected
        about = "" if seen.total is not None else "about "
        parts = [
            f"{seen.done:,}" if expected is None else f"{seen.done:,} of {about}{round(expected):,}",
            f"{100 * seen.done / expected:.0f}%" if expected else "",
            "" if rate is None else f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s",
            "" if left_s is None or seen.done == seen.total else f"{duration(left_s)} left",
            f"{seen.failed:,} failed" if seen.failed else "",
            f"{seen.workers} at work" if seen.workers else "no workers",
        ]
        return ", ".join(filter(None, parts))

    def summary(self, now: float) -> str:
        """Return what has been done, for the end."""
        seen, elapsed = self.snapshot, now - self.started
        parts = [
            f"{seen.done:,} in {duration(elapsed)}",
            f"{seen.done / elapsed:,.0f}/s" if elapsed >= 1 and seen.done >= elapsed else "",
            f"{seen.failed:,} failed" if seen.failed else "",
            f"{seen.kept:,} were there" if seen.kept else "",
        ]
        return ", ".join(filter(None, parts))


class Lines:
    """Progress as lines: one every `LINE_INTERVAL_S` while results come, and one at the end, through `write`."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float]) -> None:
        self._write = write
        self._pace = Pace(clock)
        self._last = self._pace.started

    def show(self, snapshot: Snapshot) -> None:
        """Write a line if one is due."""
        now = self._pace.see(snapshot)
        if now - self._last >= LINE_INTERVAL_S:
            self._last = now
            self._write(self._pace.line(now))

    def close(self, snapshot: Snapshot) -> None:
        """Write the last line."""
        self._write(self._pace.summary(self._pace.see(snapshot)))


def duration(seconds: float) -> str:
    """Return a time in two units at most: 3.2 s, 4m05s, 2h03m, 5d01h."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for limit, unit, unit_s, part, part_s in ((3600, "m", 60, "s", 1), (86400, "h", 3600, "m", 60)):
        if seconds < limit:
            return f"{seconds // unit_s:.0f}{unit}{seconds % unit_s // part_s:02.0f}{part}"
    return f"{seconds // 86400:.0f}d{seconds % 86400 // 3600:02.0f}h"
