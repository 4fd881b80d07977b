"""The children of this process and their tasks, for whoever asks about them."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable
from typing import Any

from zmqtasks.catalog import Catalog
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.lanes import Lane
from zmqtasks.core.peer import Peer
from zmqtasks.messages import Task
from zmqtasks.nodes.children import Children
from zmqtasks.nodes.claim import ITEM, ORDINAL
from zmqtasks.nodes.crew import SESSIONS_MAX
from zmqtasks.nodes.ids import session_of
from zmqtasks.nodes.site import Begun

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class LocalSite:
    """As `Site` says. `dispatcher`: gives the one of now."""

    def __init__(self, dispatcher: Callable[[], Dispatcher], children: Children, functions: Catalog) -> None:
        self._dispatcher = dispatcher
        self._children = children
        self._functions = functions

    def about(self) -> dict[str, Any]:
        """As `Site` says."""
        return {"clients": 1, "away": 0, "results": {"kept": 0, "bytes": 0}, "journal": "none"}

    def workers(self, now: float) -> list[dict[str, Any]]:
        """As `Site` says."""
        peers = self._dispatcher().peers
        return [
            {
                "name": self._children.names[number],
                "host": platform.node(),
                "pid": child.pid,
                "python": _PYTHON,
                "slots": 1,
                "queues": ["*"],
                "in_hand": peers[number].items,
                "heard_s_ago": round(now - peers[number].heard, 3),
                "leaving": False,
            }
            for number, child in self._children.by_peer.items()
            if number in peers and number in self._children.names
        ]

    def worker(self, peer: int) -> str | None:
        """As `Site` says."""
        return self._children.names.get(peer)

    def client(self, task: Task) -> str | None:
        """As `Site` says: this process, or the child whose task has submitted it."""
        if not (number := session_of(task.id)):
            return f"{platform.node()}:{os.getpid()}"
        peers = self._children.by_peer
        return next((self.worker(peer) for peer in peers if peer % SESSIONS_MAX == number), None)

    def function(self, number: int) -> str:
        """As `Site` says."""
        function = self._functions.by_number.get(number)
        return function.name if function is not None else ""

    def lane(self, task: Task) -> Lane:
        """As `Site` says."""
        return Lane(task.options.queue, _PYTHON)

    def lanes(self) -> Iterable[Lane]:
        """As `Site` says: all children take everything."""
        return [Lane("default", _PYTHON)]

    def takers(self, _lane: Lane) -> list[str]:
        """As `Site` says."""
        return list(self._names())

    def missing(self, _lane: Lane) -> str:
        """As `Site` says."""
        return "" if any(True for _ in self._names()) else "waiting for a worker: none is ready"

    def _names(self) -> Iterable[str]:
        names = self._children.names
        return (names[number] for number in self._children.by_peer if number in names)

    def registered(self) -> dict[str, list[str]]:
        """As `Site` says: what this process has, its children find."""
        return {}

    def running(self, peer: Peer) -> list[Begun]:
        """As `Site` says: the one that a child's claim names; where functions await, all that it has."""
        if peer.awaits:
            return [Begun(task, task.id, task.count, None) for task in peer.hand.values()]
        child = self._children.by_peer.get(peer.id)
        if child is None:
            return []
        ordinal, item = child.claim[ORDINAL], child.claim[ITEM]
        task = peer.hand.get(ordinal)
        if task is None or not task.span:
            return [Begun(task, task.id, 1, None)] if task is not None else []
        task = peer.find(ordinal, item)
        return [Begun(task, task.id + item - task.offset, 1, None)] if task is not None else []

    def result(self, _id: int) -> None:
        """As `Site` says: outcomes live with their futures."""

    def results(self) -> Iterable[Task]:
        """As `Site` says."""
        return ()
