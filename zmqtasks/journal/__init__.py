"""What is remembered of tasks, whatever happens to who remembers it: a seam.

A journal takes the records of a turn, and is committed once, before anything of that turn is sent: whoever hears that a
task was taken in, or how it ended, hears it of something that is remembered. What is settled leaves it; the outcome is
kept elsewhere, for as long as somebody may ask for it.

Memory is the only one so far, and is lost with its process. The embedded client needs none: its tasks live no longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from zmqtasks.core.effects import Record


class Journal(Protocol):
    """What a host says to one, and asks of it when it starts."""

    name: str
    """What a status says."""

    def record(self, records: Sequence[Record]) -> None:
        """Take in what a turn has, in its order; `ValueError` where a task is accepted for the second time."""

    def commit(self) -> None:
        """Return when all that was taken in is remembered."""

    def unsettled(self) -> dict[int, int]:
        """By the id of each task that was accepted and is not settled: how often its worker was lost under it."""
