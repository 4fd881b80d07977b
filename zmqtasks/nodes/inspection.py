"""What a host says of itself: its counters, workers and queues, its tasks, and why one is not running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain, islice
from typing import Any, ClassVar

from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.lanes import Lane
from zmqtasks.messages import FACE, JOIN, LEASED, RETRYING, SCHEDULED, WAITING, Task
from zmqtasks.nodes.site import Site
from zmqtasks.nodes.story import Story, epoch

LISTED_MAX = 1000
AHEAD_MAX = 10_000  # so many are counted before a task that is queued


class Inspection:
    """Answers with values as JSON has them; a `LookupError` says why there is none. Times are seconds since 1970."""

    def __init__(self, dispatcher: Callable[[], Dispatcher], site: Site, cluster_id: str) -> None:
        self._cluster_id = cluster_id
        self._dispatcher_now = dispatcher
        self._site = site

    @property
    def _dispatcher(self) -> Dispatcher:
        return self._dispatcher_now()

    def answer(self, what: str, about: dict[str, Any], now: float) -> Any:
        """The answer to `what`: one of those below; `now` in the host's seconds.

        list has `state`, `limit` and `tags`; state, explain and events have the `id`.
        """
        if what not in self._answers:
            raise LookupError(f"nothing is known about {what!r} here")
        return self._answers[what](self, about, now)

    # ---- all of it -----------------------------------------------------------------------------------------------

    def _status(self, _about: dict[str, Any], now: float) -> dict[str, Any]:
        queues: Counter[str] = Counter()
        for lane, items in self._queued()[0].items():
            queues[lane.queue] += items
        return {"workers": self._site.workers(now), **self._counters(), "queues": dict(queues)}

    def _counters(self) -> dict[str, Any]:
        ledger = self._dispatcher.ledger
        counts: Counter[str] = Counter()
        for state, tasks in enumerate(ledger.counts):
            counts[FACE[state].value] += tasks
        return {**self._site.about(), "submitted": ledger.submitted, "tasks": dict(counts)}

    def _stats(self, _about: dict[str, Any], _now: float) -> dict[str, Any]:
        costs = self._dispatcher.pace.costs()
        functions = [
            {"name": name, "seconds": cost} for fn, cost in costs.items() if (name := self._site.function(fn))
        ]
        history = self._dispatcher.ledger.history
        return {
            **self._counters(),
            "functions": functions,
            "history_bytes": history.nbytes if history is not None else 0,
        }

    def _workers(self, _about: dict[str, Any], now: float) -> list[dict[str, Any]]:
        return self._site.workers(now)

    def _registered(self, _about: dict[str, Any], _now: float) -> dict[str, list[str]]:
        return self._site.registered()

    def _queues(self, _about: dict[str, Any], now: float) -> list[dict[str, Any]]:
        """By what is needed of a worker; the oldest is looked for among the first of each priority."""
        items, heads = self._queued()
        for lane in self._site.lanes():
            items[lane] += 0
        times = self._story().taken_in(task.id for first in heads.values() for task in first.values())
        found = []
        for lane, count in items.items():
            ages = [now - times[task.id] for task in heads.get(lane, {}).values()]
            takers = self._site.takers(lane)
            if not (count or takers):
                continue
            found.append(
                {
                    "queue": lane.queue,
                    "python": lane.python,
                    "task": lane.task,
                    "tasks": count,
                    "oldest_s": round(max(ages), 3) if ages else None,
                    "workers": takers,
                    "why": self._site.missing(lane) if count else "",
                }
            )
        return sorted(found, key=lambda row: (row["queue"], row["python"], row["task"]))

    def _queued(self) -> tuple[Counter[Lane], dict[Lane, dict[int, Task]]]:
        """What is queued: how many, and of each priority the first, by what is needed of a worker."""
        items: Counter[Lane] = Counter()
        heads: dict[Lane, dict[int, Task]] = {}
        lane, options, number, alike = None, None, -1, 0
        for task in self._dispatcher.ledger.ready.tasks():
            if (
                task.options is not options or task.lane != number
            ):  # mostly many are alike, one after the other
                if lane is not None:
                    items[lane] += alike
                lane, options, number, alike = self._site.lane(task), task.options, task.lane, 0
                heads.setdefault(lane, {}).setdefault(options.priority, task)
            alike += task.count
        if lane is not None:
            items[lane] += alike
        return items, heads

    def _active(self, _about: dict[str, Any], now: float) -> list[dict[str, Any]]:
        """What runs, the longest first."""
        begun = [each for peer in self._dispatcher.peers.values() for each in self._site.running(peer)]
        given = self._story().given(first for _, first, _, since in begun if since is None)
        found = []
        for task, first, items, since in begun:
            about = self._task(task)
            at = given.get(first) if since is None else since
            found.append(
                {
                    "id": first,
                    "items": items,
                    **{key: about[key] for key in ("name", "queue", "worker", "attempt", "tags")},
                    "client": self._site.client(task),
                    "since": None if at is None else epoch() + at,
                    "seconds": None if at is None else round(now - at, 3),
                }
            )
        return sorted(found, key=lambda row: row["since"] or 0.0)

    # ---- tasks ---------------------------------------------------------------------------------------------------

    def _list(self, about: dict[str, Any], _now: float) -> list[dict[str, Any]]:
        state, limit = about.get("state"), int(about.get("limit", LISTED_MAX))
        tags = dict(about.get("tags") or {})
        tasks = chain(self._dispatcher.ledger.tasks.values(), self._site.results())
        found = (
            task
            for task in tasks
            if (state is None or FACE[task.state] == state) and tags.items() <= task.options.tags.items()
        )
        return [self._task(task) for task in islice(found, max(0, limit))]

    def _task(self, task: Task) -> dict[str, Any]:
        lane = self._site.lane(task)
        return {
            "id": task.id,
            "count": task.count,
            "state": FACE[task.state].value,
            "name": self._name(task),
            "queue": lane.queue,
            "python": lane.python,
            "priority": task.options.priority,
            "tags": task.options.tags,
            "attempt": task.attempt,
            "worker": self._site.worker(task.peer) if task.peer >= 0 else None,
        }

    def _name(self, task: Task) -> str:
        return task.options.name or self._story().name(task.fn)

    def _story(self) -> Story:
        return Story(self._dispatcher.ledger, self._site, epoch())

    def _state(self, about: dict[str, Any], _now: float) -> list[int]:
        id_ = int(about["id"])
        task = self._dispatcher.ledger.find(id_) or self._site.result(id_)
        if task is None:
            raise LookupError("no such task, or its outcome is no longer kept")
        return [task.state, task.attempt]

    def _events(self, about: dict[str, Any], _now: float) -> list[dict[str, Any]]:
        """What has happened to a task, or to all of the workflow that it is the root of, as far as it is remembered."""
        id_, story = int(about["id"]), self._story()
        task = self._dispatcher.ledger.find(id_) or self._site.result(id_)
        events = story.events(id_, task)
        if not events:
            raise LookupError("no such task, or nothing is remembered of it")
        return events

    def _explain(self, about: dict[str, Any], _now: float) -> dict[str, Any]:
        id_, story = int(about["id"]), self._story()
        live = self._dispatcher.ledger.find(id_)
        task = live or self._site.result(id_)
        events = story.own(id_, task)
        found: dict[str, Any]
        if task is not None:
            why = "it has ended, and its outcome is kept" if live is None else self._why(task, id_)
            found = {**self._task(task), "id": id_, "why": why}
        elif events:
            last = events[-1]
            found = {
                "id": id_,
                "count": 1,
                **{key: last[key] for key in ("state", "name", "attempt", "worker")},
                "why": "it has ended, and its outcome is not kept",
            }
        else:
            raise LookupError("no such task, or its outcome is no longer kept")
        found["events"] = events
        if (workflow := story.workflow(id_, task)) is not None:
            found["workflow"] = workflow
        if (nodes := story.nodes(id_, live)) is not None:
            found["nodes"] = nodes
        if live is not None and live.state == WAITING:
            found["waits_for"] = story.awaited(live)
        return found

    def _why(self, task: Task, id_: int) -> str:
        """Why it is where it is."""
        ledger = self._dispatcher.ledger
        if task.state == WAITING and task.fn == JOIN and (assembly := ledger.joins.assemblies.get(task.id)):
            there, count = assembly.have, assembly.count
            of = "its members, of which more may come" if count is None else f"its {count:,} members"
            return f"it waits for {of}: {there:,} {'has' if there == 1 else 'have'} ended"
        if task.state == WAITING and (stand := ledger.joins.stands.get(id_)) is not None:
            return f"task {self._cluster_id}-{stand.by} takes its place"
        if task.state == WAITING:
            if lent := sum(need in ledger.loans for need in task.needs):
                return f"{lent} of the values that it takes {'is' if lent == 1 else 'are'} asked for where it came from"
            missing = [need for need in task.needs if ledger.find(need) is not None]
            return f"it waits for {len(missing)} other task{'' if len(missing) == 1 else 's'}"
        if task.state == SCHEDULED:
            return "its time has not come"
        if task.state == RETRYING:
            return "the time of its next attempt has not come"
        if task.state == LEASED:
            return f"worker {self._site.worker(task.peer) or '?'} has it"
        lane = self._site.lane(task)
        if missing_worker := self._site.missing(lane):
            return missing_worker
        takers = self._site.takers(lane)
        before = ledger.ready.ahead(task, AHEAD_MAX)
        busy = (
            "the worker that takes it is"
            if len(takers) == 1
            else f"all {len(takers)} workers that take it are"
        )
        many = f"more than {AHEAD_MAX:,}" if before > AHEAD_MAX else f"about {before:,}"
        return f"{busy} busy; {many} task{' is' if before == 1 else 's are'} before it"

    _answers: ClassVar[dict[str, Callable[..., Any]]] = {
        "status": _status,
        "stats": _stats,
        "workers": _workers,
        "registered": _registered,
        "queues": _queues,
        "active": _active,
        "list": _list,
        "state": _state,
        "events": _events,
        "explain": _explain,
    }
