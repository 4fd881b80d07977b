"""What a task knows of itself."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from time import monotonic, time
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from zmqtasks import wire
from zmqtasks.calls import Calls
from zmqtasks.core.parcels import BASE_MASK
from zmqtasks.errors import NotInTask, ZmqTasksError
from zmqtasks.nodes import child
from zmqtasks.nodes.claim import SINCE
from zmqtasks.nodes.upstream import upstream
from zmqtasks.nodes.verdict import Instead, Item, again
from zmqtasks.options import DEFAULT_OPTIONS, Options
from zmqtasks.submitter import Submitter

if TYPE_CHECKING:
    from zmqtasks.flow import Workflow

T = TypeVar("T")


class Context:
    """The running task, as itself sees it."""

    def __init__(self, process: child.Child, item: Item) -> None:
        self._process = process
        self._item = item

    @property
    def id(self) -> str:
        """The task's id, the same as its future's; in a pipeline the number of its input, from the first run's on."""
        cluster, number = self._process.cluster[0], self._process.running_id(self._item)
        return f"{cluster}-{number}" if cluster else str(number & BASE_MASK)

    @property
    def name(self) -> str:
        """Its name: the option, or the function's."""
        return self._process.name_of(self._item)

    @property
    def attempt(self) -> int:
        """1 at the first run, 2 where that failed and is retried, or a worker was lost under it."""
        more = self._item[4]
        return more.attempt if more is not None else 1

    @property
    def queue(self) -> str:
        """The option `queue`."""
        return self._options.queue

    @property
    def deadline(self) -> float | None:
        """When its `time_limit` is over, in seconds since 1970; None if it has none."""
        if (limit := self._options.time_limit) is None:
            return None
        awaiting = self._process.awaiting
        begun = awaiting.begun.get(self._item[0]) if awaiting is not None else None
        if begun is None:
            begun = self._process.claim[SINCE] / 1e9
        return time() - monotonic() + begun + limit

    @property
    def _options(self) -> Options:
        more = self._item[4]
        return DEFAULT_OPTIONS if more is None or more.options is None else more.options

    @property
    def tags(self) -> dict[str, str]:
        """The option `tags`."""
        return dict(self._options.tags)

    @property
    def client(self) -> Submitter:
        """Submits to the dispatcher that this task came from. Waiting for what it submits gives the slot away."""
        global _client
        if not self._process.cluster[0]:
            raise ZmqTasksError(
                "a pipeline has no dispatcher that its tasks could submit to: open a Client there"
            )
        if _client is None:
            host = upstream(self._process)
            _client = Submitter(host, Calls(host))
        return _client

    def cancelled(self) -> bool:
        """Whether whoever asked for this task has cancelled it since it started."""
        return self._item[2] in self._process.traces.unwanted

    def retry(self, delay: float | timedelta | None = None, exc: BaseException | None = None) -> NoReturn:
        """Give this attempt up, and ask for another: in `delay` seconds, or after the backoff of the task's `Retry`.

        What it raises passes every `except Exception`. Without a `Retry` of its own the task has the default one's 3.
        When there is none left, or `deadline` is over, the task fails with `exc`, or with what is being handled.
        """
        if isinstance(delay, timedelta):
            delay = delay.total_seconds()
        if delay is not None and not 0 <= delay < float("inf"):
            raise ValueError(f"delay is seconds or a timedelta, 0 or more, not {delay!r}")
        raise again(delay, exc, sys.exception())

    def replace(self, workflow: Workflow) -> NoReturn:
        """End this task, and have `workflow` take its place: what that comes to is what this task comes to.

        What it raises passes every `except Exception`. Nothing of this task waits: its worker goes on to others.
        """
        raise Instead(self.client.run_instead(workflow, self._process.running_id(self._item)))

    def progress(self, done: float, total: float | None = None, message: str = "", **meta: Any) -> None:
        """Say how far the task is: its future shows the last word. Ten a second go out, and the last one always."""
        process = self._process
        if process.current is not self._item:
            return  # a thread that outlived its task
        process.traces.report(wire.Progress(process.running_id(self._item), done, total, message, meta))

    def track(self, iterable: Iterable[T], total: float | None = None) -> Iterator[T]:
        """Go through `iterable`, saying how far it is; `total` is its length where it has one."""
        if total is None:
            total = len(iterable) if isinstance(iterable, Sized) else None
        done = 0
        for done, item in enumerate(iterable):
            self.progress(done, total)
            yield item
        self.progress(done + 1 if total != 0 else 0, total)


_client: Submitter | None = None
_context: Context | None = None


def current() -> Context:
    """The running task; `NotInTask` outside one."""
    global _context
    process = child.RUNNING
    item = process.current if process is not None else None
    if process is None or item is None:
        raise NotInTask("current() is for the inside of a task: no task is running here")
    if _context is None or _context._item is not item:  # noqa: SLF001 - of this module's own class
        _context = Context(process, item)
    return _context
