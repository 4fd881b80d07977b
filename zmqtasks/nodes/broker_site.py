"""A broker's workers, clients and outcomes, for whoever asks about them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zmqtasks.catalog import Catalog
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.lanes import Lane
from zmqtasks.core.peer import Peer
from zmqtasks.core.results import Results
from zmqtasks.messages import Task
from zmqtasks.nodes.crew import SESSIONS_MAX
from zmqtasks.nodes.guests import Guests
from zmqtasks.nodes.ids import session_of
from zmqtasks.nodes.site import Begun
from zmqtasks.nodes.visitor import Visitor
from zmqtasks.suggest import close_to


class BrokerSite:
    """As `Site` says."""

    def __init__(
        self, dispatcher: Dispatcher, guests: Guests, results: Results, catalog: Catalog, journal: str
    ) -> None:
        self._dispatcher = dispatcher
        self._guests = guests
        self._results = results
        self._catalog = catalog
        self._journal = journal  # what it is called

    def about(self) -> dict[str, Any]:
        """As `Site` says."""
        clients = sum(session.visitor is not None for session in self._guests.sessions.values())
        return {
            "clients": clients,
            "away": len(self._guests.sessions) - clients,
            "results": {"kept": len(self._results), "bytes": self._results.nbytes},
            "journal": self._journal,
        }

    def workers(self, now: float) -> list[dict[str, Any]]:
        """As `Site` says."""
        return [self._worker(node, now) for node in self._guests.nodes.values()]

    def _worker(self, node: Visitor, now: float) -> dict[str, Any]:
        peer = self._dispatcher.peers.get(node.number)
        return {
            "name": node.name,
            "host": node.about.host,
            "pid": node.about.pid,
            "python": node.about.python,
            "slots": node.about.slots,
            "queues": node.about.queues or ["*"],
            "in_hand": peer.items if peer is not None else 0,
            "heard_s_ago": round(now - peer.heard, 3) if peer is not None else None,
            "leaving": peer.leaving if peer is not None else True,
        }

    def worker(self, peer: int) -> str | None:
        """As `Site` says."""
        node = self._guests.nodes.get(peer)
        return node.name if node is not None else self._guests.names.get(peer)

    def client(self, task: Task) -> str | None:
        """As `Site` says: a client, or the worker whose task has submitted it."""
        number = session_of(task.id)
        if (session := self._guests.sessions.get(number)) is not None:
            return session.visitor.name if session.visitor is not None else None
        nodes = self._guests.nodes.values()
        return next((node.name for node in nodes if node.number <= number < node.number + SESSIONS_MAX), None)

    def function(self, number: int) -> str:
        """As `Site` says."""
        function = self._catalog.by_number.get(number)
        return function.name if function is not None else ""

    def lane(self, task: Task) -> Lane:
        """As `Site` says."""
        return self._guests.lanes.by_number[task.lane]

    def lanes(self) -> Iterable[Lane]:
        """As `Site` says."""
        return self._guests.lanes.by_number

    def takers(self, lane: Lane) -> list[str]:
        """As `Site` says."""
        return [node.name for node in self._guests.nodes.values() if node.taker.takes(lane)]

    def missing(self, lane: Lane) -> str:
        """As `Site` says."""
        nodes = self._guests.nodes.values()
        if lane.task and not any(lane.task in node.about.tasks for node in nodes):
            tasks = {name for node in nodes for name in node.about.tasks}
            return f"waiting for a worker with -A ... that has task {lane.task!r}{close_to(lane.task, tasks)}"
        if not nodes:
            return "waiting for a worker: none is connected"
        if not lane.task and not any(node.about.python == lane.python for node in nodes):
            here = ", ".join(sorted({node.about.python for node in nodes}))
            return f"waiting for a worker with Python {lane.python} (there are: {here})"
        if not any(node.taker.takes(lane) for node in nodes):
            return f"waiting for a worker that takes the queue {lane.queue!r}"
        return ""

    def registered(self) -> dict[str, list[str]]:
        """As `Site` says."""
        tasks: dict[str, list[str]] = {}
        for node in self._guests.nodes.values():
            for name in node.about.tasks:
                tasks.setdefault(name, []).append(node.name)
        return tasks

    def running(self, peer: Peer) -> list[Begun]:
        """As `Site` says: a node tells of long tasks when they begin, and of short ones only if it has no others.

        Where it has no more in hand than it runs at a time, all of that runs.
        """
        begun = [
            Begun(task, task.id + offset - task.offset if task.span else task.id, 1, since)
            for (ordinal, offset), since in peer.begun.items()
            if (task := peer.find(ordinal, offset)) is not None
        ]
        if peer.items <= peer.slots:
            told = {each.task.id for each in begun}
            rest = [task for task in peer.hand.values() if task.id not in told]
            begun += [Begun(task, task.id, task.count, None) for task in rest]
        return begun

    def result(self, id_: int) -> Task | None:
        """As `Site` says."""
        return self._results.find(id_)

    def results(self) -> Iterable[Task]:
        """As `Site` says."""
        return self._results
