"""What a broker says of itself: the same answers that the command line prints."""

from __future__ import annotations

from typing import Any

from zmqtasks.errors import UnknownTask
from zmqtasks.submitter import number_of


class Inspect:
    """Questions to a broker; answers are what JSON has."""

    def __init__(self, host: Any) -> None:
        self._host = host

    def status(self) -> dict[str, Any]:
        """Counters of tasks by state, which add up to `submitted`, workers, queues, clients, results that are kept."""
        return self._named(self._host.inquire("status"))

    def list(
        self, state: str | None = None, limit: int = 1000, *, tags: dict[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Tasks that are not settled, and outcomes that are kept: of one `state`, or of all; with these `tags`."""
        found = self._host.inquire("list", state=state, limit=limit, tags=tags or {})
        return [self._named(task) for task in found]

    def explain(self, task_id: str) -> dict[str, Any]:
        """Where a task is, and why it is not running; `UnknownTask` for one that nobody submitted."""
        number = number_of(task_id, self._host.cluster_id)
        if number is None:
            raise UnknownTask(f"{task_id} is no task of this broker")
        return self._named(self._host.inquire("explain", id=number))

    def _named(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "id" in answer:
            answer["id"] = f"{self._host.cluster_id}-{answer['id']}"
        return answer
