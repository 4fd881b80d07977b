"""What a broker, or an embedded client, says of itself: the same answers that the command line prints."""

from __future__ import annotations

from typing import Any

from zmqtasks.errors import UnknownTask
from zmqtasks.submitter import number_of

Found = dict[str, Any]
All = list[Found]
Names = dict[str, list[str]]

_IDS = ("id", "workflow")


class Inspect:
    """Questions; answers are what JSON has, times in them are seconds since 1970."""

    def __init__(self, host: Any) -> None:
        self._host = host

    def status(self) -> Found:
        """Counters of tasks by state, which add up to `submitted`, workers, queues, clients, results that are kept."""
        found: Found = self._ask("status")
        return found

    def stats(self) -> Found:
        """The same counters, and `functions`: the seconds that a task of each takes, by what was measured of late."""
        found: Found = self._ask("stats")
        return found

    def list(self, state: str | None = None, limit: int = 1000, *, tags: dict[str, str] | None = None) -> All:
        """Tasks that are not settled, and outcomes that are kept: of one `state`, or of all; with these `tags`."""
        found: All = self._ask("list", state=state, limit=limit, tags=tags or {})
        return found

    def workers(self) -> All:
        """The workers that are there."""
        found: All = self._ask("workers")
        return found

    def queues(self) -> All:
        """By queue: `tasks` that are queued, how long the oldest has been there, `workers` that take it, or `why` none.

        `oldest_s` is since it was submitted; what was submitted before all that is remembered is older than that says.
        """
        found: All = self._ask("queues")
        return found

    def active(self) -> All:
        """What is running, the longest first: where, since when, and who has submitted it.

        A broker's workers tell of tasks that take some milliseconds at least.
        """
        found: All = self._ask("active")
        return found

    def registered(self) -> Names:
        """Tasks that workers have registered, by name: the workers that have each."""
        found: Names = self._host.inquire("registered")
        return found

    def explain(self, task_id: str) -> Found:
        """Where a task is, why it is not running, and all that is remembered of it, as `events`.

        Of a workflow's root, or of a group in one: `nodes`, how many are where, and which have failed. `waits_for`:
        what is to end before it, the first few. `UnknownTask` for one that nobody submitted, or that is forgotten.
        """
        found: Found = self._ask("explain", id=self._number(task_id))
        return found

    def events(self, task_id: str) -> All:
        """What is remembered of a task; of a workflow's root, of all tasks in it. `UnknownTask` as for `explain`."""
        found: All = self._ask("events", id=self._number(task_id))
        return found

    def _number(self, task_id: str) -> int:
        number = number_of(task_id, self._host.cluster_id)
        if number is None:
            raise UnknownTask(f"{task_id} is no task of this {'broker' if self._host.by_value else 'client'}")
        return number

    def _ask(self, what: str, **about: Any) -> Any:
        return self._named(self._host.inquire(what, **about))

    def _named(self, answer: Any) -> Any:
        """The same with ids as text, at any depth."""
        if isinstance(answer, list):
            return [self._named(each) for each in answer]
        if not isinstance(answer, dict):
            return answer
        return {
            key: f"{self._host.cluster_id}-{value}"
            if key in _IDS and type(value) is int
            else self._named(value)
            for key, value in answer.items()
        }
