"""What a broker says of itself: its counters, workers and queues, its tasks, and why one is not running."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from typing import Any

from zmqtasks.catalog import Catalog
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.results import Results
from zmqtasks.messages import FACE, LEASED, SCHEDULED, WAITING, Task
from zmqtasks.nodes.guests import Guests
from zmqtasks.nodes.visitor import Visitor
from zmqtasks.suggest import close_to

LISTED_MAX = 1000


class Inspection:
    """Answers with values as JSON has them; a `LookupError` says why there is none."""

    def __init__(
        self, dispatcher: Dispatcher, guests: Guests, results: Results, catalog: Catalog, journal: str
    ) -> None:
        self._dispatcher = dispatcher
        self._guests = guests
        self._results = results
        self._catalog = catalog
        self._journal = journal  # what it is called

    def answer(self, what: str, about: dict[str, Any], now: float) -> Any:
        """The answer to `what`: status, list (`state`, `limit`, `tags`), state, explain (`id`), registered."""
        match what:
            case "status":
                return self._status(now)
            case "list":
                tags = dict(about.get("tags") or {})
                return self._list(about.get("state"), int(about.get("limit", LISTED_MAX)), tags)
            case "state":
                return self._state(int(about["id"]))
            case "registered":
                return self._registered()
            case "explain":
                return self._explain(int(about["id"]))
            case _:
                raise LookupError(f"nothing is known about {what!r} here")

    def _status(self, now: float) -> dict[str, Any]:
        ledger = self._dispatcher.ledger
        counts: Counter[str] = Counter()
        for state, tasks in enumerate(ledger.counts):
            counts[FACE[state].value] += tasks
        queues: Counter[str] = Counter()
        for task in ledger.ready.tasks():
            queues[self._guests.lanes.by_number[task.lane].queue] += task.count
        clients = sum(session.visitor is not None for session in self._guests.sessions.values())
        return {
            "workers": [self._worker(node, now) for node in self._guests.nodes.values()],
            "clients": clients,
            "away": len(self._guests.sessions) - clients,
            "submitted": ledger.submitted,
            "tasks": dict(counts),
            "queues": dict(queues),
            "results": {"kept": len(self._results), "bytes": self._results.nbytes},
            "journal": self._journal,
        }

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

    def _registered(self) -> dict[str, list[str]]:
        """Tasks by name, and the workers that have each."""
        tasks: dict[str, list[str]] = {}
        for node in self._guests.nodes.values():
            for name in node.about.tasks:
                tasks.setdefault(name, []).append(node.name)
        return tasks

    def _list(self, state: str | None, limit: int, tags: dict[str, str]) -> list[dict[str, Any]]:
        tasks = chain(self._dispatcher.ledger.tasks.values(), self._results)
        found = (
            task
            for task in tasks
            if (state is None or FACE[task.state] == state) and tags.items() <= task.options.tags.items()
        )
        return [self._task(task) for task in islice(found, max(0, limit))]

    def _task(self, task: Task) -> dict[str, Any]:
        function = self._catalog.by_number.get(task.fn)
        node = self._guests.nodes.get(task.peer)
        lane = self._guests.lanes.by_number[task.lane]
        return {
            "id": task.id,
            "count": task.count,
            "state": FACE[task.state].value,
            "name": task.options.name or (function.name if function is not None else ""),
            "queue": lane.queue,
            "python": lane.python,
            "priority": task.options.priority,
            "tags": task.options.tags,
            "attempt": task.attempt,
            "worker": node.name if node is not None else None,
        }

    def _state(self, id_: int) -> list[int]:
        task = self._dispatcher.ledger.find(id_)
        if task is not None:
            return [task.state, task.attempt]
        result = self._results.find(id_)
        if result is None:
            raise LookupError("no such task, or its outcome is no longer kept")
        return [result.state, result.attempt]

    def _explain(self, id_: int) -> dict[str, Any]:
        task = self._dispatcher.ledger.find(id_)
        if task is None:
            task = self._results.find(id_)
            if task is None:
                raise LookupError("no such task, or its outcome is no longer kept")
            return {**self._task(task), "id": id_, "why": "it has ended, and its outcome is kept"}
        return {**self._task(task), "id": id_, "why": self._why(task)}

    def _why(self, task: Task) -> str:
        """Why it is where it is."""
        if task.state == WAITING:
            missing = [need for need in task.needs if self._dispatcher.ledger.find(need) is not None]
            return f"it waits for {len(missing)} other task{'' if len(missing) == 1 else 's'}"
        if task.state == SCHEDULED:
            return "its time has not come"
        if task.state == LEASED:
            node = self._guests.nodes.get(task.peer)
            return f"worker {node.name if node is not None else '?'} has it"
        lane = self._guests.lanes.by_number[task.lane]
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
        takers = [node for node in nodes if node.taker.takes(lane)]
        before = sum(
            other.count
            for other in self._dispatcher.ledger.ready.tasks()
            if other.lane == task.lane
            and other.options.priority >= task.options.priority
            and other.id < task.id
        )
        busy = (
            "the worker that takes it is"
            if len(takers) == 1
            else f"all {len(takers)} workers that take it are"
        )
        return f"{busy} busy; about {before} task{' is' if before == 1 else 's are'} before it"
