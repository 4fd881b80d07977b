"""What only the host of a dispatcher knows, and whoever asks it about its tasks wants to hear."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from zmqtasks.core.lanes import Lane
from zmqtasks.core.peer import Peer
from zmqtasks.messages import Task

NAMES_MAX = 10_000  # workers whose names are remembered, gone ones among them


def remember(names: dict[int, str], peer: int, name: str) -> None:
    """That is what `peer` is called; who came first is forgotten where there are too many."""
    names[peer] = name
    if len(names) > NAMES_MAX:
        del names[next(iter(names))]


class Begun(NamedTuple):
    """Of `task` the `items` from the id `first` on run; `since`: in the host's seconds, None: nobody knows."""

    task: Task
    first: int
    items: int
    since: float | None


class Site(Protocol):
    """A host; a peer is a worker."""

    def about(self) -> dict[str, Any]:
        """What a status says beside workers and tasks: `clients`, `away`, `results`, `journal`."""

    def workers(self, now: float) -> list[dict[str, Any]]:
        """Those that are there, as JSON has them."""

    def worker(self, peer: int) -> str | None:
        """What a peer is called, also one that is gone; None: nobody knows any more."""

    def client(self, task: Task) -> str | None:
        """Who has submitted it."""

    def function(self, number: int) -> str:
        """What a function is called; "" if it is not known."""

    def lane(self, task: Task) -> Lane:
        """What it needs of a worker."""

    def lanes(self) -> Iterable[Lane]:
        """All that were ever needed."""

    def takers(self, lane: Lane) -> list[str]:
        """The workers that can run what is in it."""

    def missing(self, lane: Lane) -> str:
        """Why none can; "" if there is one."""

    def registered(self) -> dict[str, list[str]]:
        """Tasks by name, and the workers that have registered each."""

    def running(self, peer: Peer) -> list[Begun]:
        """What of its hand has begun, as far as it is known."""

    def result(self, id_: int) -> Task | None:
        """The outcome of a task, if it is kept."""

    def results(self) -> Iterable[Task]:
        """All that are."""
