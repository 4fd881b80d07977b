"""Lanes: what a task needs of a worker, and who has that. A lane is a queue's name and a minor version of Python.

Functions travel as bytecode, which only the Python that made it can run. A task that is known by its name runs where it
is registered, in whatever Python.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple


class Lane(NamedTuple):
    """A queue, for workers of one Python, or for those that have registered `task`."""

    queue: str
    python: str
    task: str = ""


class Taker(NamedTuple):
    """A node: its Python, patterns of the queues that it takes (none: all) and of those that it does not, its tasks."""

    python: str
    queues: Sequence[str]
    excluded: Sequence[str]
    tasks: Container[str] = ()

    def takes(self, lane: Lane) -> bool:
        """Whether it can run what is in `lane`."""
        return (
            (lane.task in self.tasks if lane.task else self.python == lane.python)
            and (not self.queues or any(fnmatchcase(lane.queue, pattern) for pattern in self.queues))
            and not any(fnmatchcase(lane.queue, pattern) for pattern in self.excluded)
        )


class Lanes:
    """Lanes by number; a new one is made for whatever first needs it."""

    def __init__(self) -> None:
        self._numbers: dict[Lane, int] = {}
        self.by_number: list[Lane] = []

    def number(self, lane: Lane) -> tuple[int, bool]:
        """The number of `lane`, and whether it is new: then those who take it have to be told."""
        number = self._numbers.get(lane)
        if number is not None:
            return number, False
        self._numbers[lane] = number = len(self.by_number)
        self.by_number.append(lane)
        return number, True

    def of(self, taker: Taker) -> frozenset[int]:
        """The numbers of the lanes that a node takes."""
        return frozenset(number for number, lane in enumerate(self.by_number) if taker.takes(lane))
