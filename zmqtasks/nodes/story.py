"""What has happened to a task or a workflow, what of it is still to come, and what it waits for."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from time import monotonic, time
from typing import Any

from zmqtasks.core.history import Happened, History, Node
from zmqtasks.core.ledger import Ledger
from zmqtasks.core.ranges import Range, Ranges
from zmqtasks.messages import (
    DEAD,
    EXPIRED,
    FACE,
    FAILED,
    JOIN,
    LEASED,
    NEW,
    QUEUED,
    RETRYING,
    SCHEDULED,
    WAITING,
    Task,
)
from zmqtasks.nodes.site import Site

EVENTS_MAX = 10_000
SHOWN_MAX = 10
LOOKED_MAX = 100_000  # so many unsettled tasks of a workflow are looked at
_SET_S = 0.01  # a clock that is off by more was set
FORGOTTEN = "what was before is forgotten"
_FIRST = (LEASED, QUEUED, RETRYING, SCHEDULED, WAITING)  # which of those that are waited for are shown


_epoch = time() - monotonic()


def epoch() -> float:
    """When the host's clock was at 0: the same each time, unless somebody sets the clock."""
    global _epoch
    now = time() - monotonic()
    if abs(now - _epoch) > _SET_S:
        _epoch = now
    return _epoch


class Story:
    """Answers with values as JSON has them; ids are numbers. `epoch`: when the host's clock was at 0."""

    def __init__(self, ledger: Ledger, site: Site, epoch: float) -> None:
        self._ledger = ledger
        self._history = ledger.history or History()
        self._site = site
        self._epoch = epoch

    def name(self, fn: int) -> str:
        """What a function is called, or a join."""
        return "group" if fn == JOIN else self._site.function(fn)

    def taken_in(self, ids: Iterable[int]) -> dict[int, float]:
        """When these tasks were, in the host's seconds; where that is forgotten it was before what is said."""
        times = dict.fromkeys(ids, self._history.begins)
        for each in reversed(self._history.of(Ranges((id_, id_ + 1) for id_ in times))):
            times.update(dict.fromkeys(range(each.id, each.id + each.items), each.at))
        return times

    def given(self, ids: Iterable[int]) -> dict[int, float]:
        """When these were handed out last, as far as it is known."""
        times: dict[int, float] = {}
        for each in self._history.of(Ranges((id_, id_ + 1) for id_ in ids)):
            if each.state == LEASED:
                times.update(dict.fromkeys(range(each.id, each.id + each.items), each.at))
        return times

    # ---- what was ------------------------------------------------------------------------------------------------

    def own(self, id_: int, task: Task | None) -> list[dict[str, Any]]:
        """What has happened to this task alone."""
        found = self._history.of(Ranges([(id_, id_ + 1)]))
        if task is not None:
            name = task.options.name or self.name(task.fn)
        else:
            node = self._history.workflow_of(id_) if found else None
            name = self.name(node[1].fn) if node is not None else ""
        if not found and task is not None:
            return [self._late(Happened(0.0, id_, 1, task.state, task.state, -1, task.attempt, ""), name)]
        return list(self._told(found, [Node(0, id_, 1)], [name]))

    def events(self, id_: int, task: Task | None) -> list[dict[str, Any]]:
        """The same of all of the workflow that it is the root of, the last ones if there are too many."""
        nodes = sorted(self._history.nodes(id_), key=lambda node: node.id)
        if not nodes:
            return self.own(id_, task)
        found = self._history.of(Ranges((node.id, node.id + node.items) for node in nodes))
        names = [self.name(node.fn) for node in nodes]
        return list(self._told(found, nodes, names))[-EVENTS_MAX:]

    def _told(self, found: list[Happened], nodes: list[Node], names: list[str]) -> Iterator[dict[str, Any]]:
        begun = Ranges()
        for each, name in _cut(found, nodes, names):
            new = begun.add(each.id, each.id + each.items)
            if new and each.was != NEW:
                yield self._late(each, name)
            where = self._site.worker(each.place) if each.place >= 0 else None
            yield {
                "time": self._epoch + each.at,
                "id": each.id,
                "count": each.items,
                "name": name,
                "state": FACE[each.state].value,
                "worker": where,
                "attempt": each.attempt,
                "reason": "handed out" if each.state == LEASED else each.reason,
            }

    def _late(self, first: Happened, name: str) -> dict[str, Any]:
        """The beginning of what is known, where that is not the beginning."""
        return {
            "time": self._epoch + self._history.begins,
            "id": first.id,
            "count": first.items,
            "name": name,
            "state": FACE[first.was].value,
            "worker": None,
            "attempt": max(0, first.attempt - (first.state == LEASED)),
            "reason": FORGOTTEN,
        }

    # ---- what is to come -----------------------------------------------------------------------------------------

    def workflow(self, id_: int, task: Task | None) -> int | None:
        """The root of the workflow that it is in, if it is not that itself."""
        if task is not None:
            root = task.root
        else:
            found = self._history.workflow_of(id_)
            root = found[0] if found is not None else -1
        return root if root >= 0 and root != id_ else None

    def nodes(self, id_: int, live: Task | None) -> dict[str, Any] | None:
        """Of a workflow's root all that is in it, of another join its members: how many are where; of others None."""
        if (ranges := self._ranges(id_, live)) is None:
            return None
        total = sum(end - first for first, end in ranges)
        states: Counter[str] = Counter()
        for task in islice(self._live(ranges), LOOKED_MAX):
            states[FACE[task.state].value] += task.count
        names = {node.id: self.name(node.fn) for node in self._history.nodes(id_)}
        failed = [
            {"id": each.id, "name": names.get(each.id, ""), "state": FACE[each.state].value, "reason": each.reason}
            for each in self._history.of(Ranges(ranges))
            if each.state in (FAILED, DEAD, EXPIRED) and each.id != id_
        ]  # fmt: skip
        ended = total - sum(states.values())
        by_state = {name: states[name] for state in _FIRST if (name := FACE[state].value) in states}
        return {"total": total, "ended": ended, "states": by_state, "failed": failed[:SHOWN_MAX]}

    def awaited(self, live: Task) -> list[dict[str, Any]]:
        """What a task that waits is waiting for: the first few, those that run before those that wait themselves."""
        ranges = self._ranges(live.id, live)
        tasks: Iterable[Task]
        if ranges is not None:
            tasks = (task for task in islice(self._live(ranges), LOOKED_MAX) if task is not live)
        else:
            tasks = [task for need in live.needs if (task := self._ledger.find(need)) is not None]
        by_state: dict[int, list[Task]] = {state: [] for state in _FIRST}
        for task in tasks:
            if len(alike := by_state[task.state]) < SHOWN_MAX:
                alike.append(task)
        return [self._shown(task) for state in _FIRST for task in by_state[state]][:SHOWN_MAX]

    def _shown(self, task: Task) -> dict[str, Any]:
        return {
            "id": task.id,
            "count": task.count,
            "name": task.options.name or self.name(task.fn),
            "state": FACE[task.state].value,
            "queue": self._site.lane(task).queue,
            "worker": self._site.worker(task.peer) if task.peer >= 0 else None,
        }

    def _ranges(self, id_: int, live: Task | None) -> list[Range] | None:
        if nodes := self._history.nodes(id_):
            return [(node.id, node.id + node.items) for node in nodes]
        assembly = self._ledger.joins.assemblies.get(id_) if live is not None else None
        return None if assembly is None else [(first, first + items) for first, items in assembly.ranges]

    def _live(self, ranges: list[Range]) -> Iterator[Task]:
        return (task for first, end in ranges for task in self._ledger.within(first, end - first))


def _cut(found: list[Happened], nodes: list[Node], names: list[str]) -> Iterator[tuple[Happened, str]]:
    """What has happened, by nodes: neighbours may be of several. `nodes` are in the order of their ids."""
    firsts = [node.id for node in nodes]
    for each in found:
        first, end = each.id, each.id + each.items
        while first < end:
            at = bisect_right(firsts, first) - 1
            until = min(end, nodes[at].id + nodes[at].items)
            yield each._replace(id=first, items=until - first), names[at]
            first = until
