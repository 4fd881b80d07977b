"""The functions that are run as tasks, importable by every contestant's children."""

from __future__ import annotations

import signal
import time
from typing import TypeVar

T = TypeVar("T")


def noop() -> None:
    """Do nothing."""


def echo(value: T) -> T:
    """Return the argument."""
    return value


def spin(duration_s: float) -> None:
    """Keep a core busy for `duration_s` seconds by the wall clock; being preempted counts as work done."""
    end = time.perf_counter() + duration_s
    while time.perf_counter() < end:
        pass


def nap(duration_s: float) -> None:
    """Leave the core to others for `duration_s` seconds, as a task does that waits for something else."""
    time.sleep(duration_s)


def block() -> None:
    """Wait for a signal, that is until this process is killed."""
    signal.pause()


def work(value: T) -> T:
    """Return the argument, after some 20 microseconds of work."""
    sum(range(1000))
    return value


def stamp(*_: object) -> float:
    """Return when it ended, by a clock that all processes of this machine share."""
    return time.monotonic()


def lag(stamps: list[float]) -> tuple[int, float]:
    """Return how many members there were, and how long after the end of the last of them this began, in seconds."""
    return len(stamps), time.monotonic() - max(stamps)


def step(number: int) -> int:
    """Return the next one."""
    return number + 1
