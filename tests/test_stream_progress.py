"""How far a run is: rates, what is left, and when a line is due, on a clock of the test's own."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from zmqtasks.cli.bar import Bar
from zmqtasks.stream.progress import Lines, Pace, Snapshot, duration


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (Snapshot(), None),
        (Snapshot(done=5, bytes_done=10), None),
        (Snapshot(done=5, bytes_total=10), None),
        (Snapshot(done=5, total=20, bytes_done=1, bytes_total=9), 20),
        (Snapshot(done=5, window=5, bytes_done=10, bytes_total=100), 100),
        (Snapshot(done=5, window=5, kept=10, bytes_done=10, bytes_total=100), 190),
    ],
)
def test_how_many_there_will_be(snapshot: Snapshot, expected: float | None) -> None:
    assert snapshot.expected == expected


def test_a_line_says_all_that_is_known() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.line(clock.now) == "0, no workers"
    clock.now += 1
    assert pace.line(pace.see(Snapshot(done=50, workers=2))) == "50, 50/s, 2 at work"
    clock.now += 1
    told = pace.line(pace.see(Snapshot(done=100, failed=3, total=1600, workers=2)))
    assert told == "100 of 1,600, 6%, 50/s, 30 s left, 3 failed, 2 at work"
    clock.now += 1
    told = pace.line(pace.see(Snapshot(done=200, window=20, bytes_done=10, bytes_total=40, workers=2)))
    assert told == "200 of about 880, 23%, 67/s, 10 s left, 2 at work"
    clock.now += 1
    told = pace.line(pace.see(Snapshot(done=1600, total=1600, workers=2)))
    assert told == "1,600 of 1,600, 100%, 400/s, 2 at work"
    assert pace.summary(clock.now) == "1,600 in 4.0 s, 400/s"
    assert Pace(clock).summary(clock.now) == "0 in 0.0 s"


def test_a_rate_is_that_of_late() -> None:
    clock = Clock()
    pace = Pace(clock)
    for second in range(1, 101):
        clock.now += 1
        pace.see(Snapshot(done=1000 * second if second <= 50 else 50_000 + second - 50))
    assert pace.rate(clock.now) == 1.0
    assert pace.line(clock.now).startswith("50,050, 1.0/s")


def test_lines_come_when_they_are_due_and_at_the_end() -> None:
    clock, written = Clock(), list[str]()
    lines = Lines(written.append, clock)
    for second in range(12):
        lines.show(Snapshot(done=10 * second, workers=1))
        clock.now += 1
    lines.close(Snapshot(done=120, failed=2, kept=7))
    assert written == [
        "50, 10/s, 1 at work",
        "100, 10/s, 1 at work",
        "120 in 12 s, 10/s, 2 failed, 7 were there",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86399, "23h59m"),
        (90000, "1d01h"),
    ],
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_bar_is_drawn_and_taken_away() -> None:
    screen = io.StringIO()
    bar = Bar(Console(file=screen, force_terminal=True, width=100))
    bar.show(Snapshot(done=5, total=10, workers=2))
    assert "5 of 10, 50%, 2 at work" in screen.getvalue()
    bar.close(Snapshot(done=10, total=10, workers=2))
    assert re.search(r"10 in \d+\.\d s\n\Z", screen.getvalue())
