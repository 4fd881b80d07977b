"""Clients: where closures are submitted."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Self

from zmqtasks.calls import Calls
from zmqtasks.nodes import child
from zmqtasks.nodes.local import LocalCluster, cpus
from zmqtasks.options import Retry
from zmqtasks.submitter import Submitter


class Client(Submitter):
    """Workers of this machine, started here and gone with it; submit closures to them.

    `workers`: how many tasks run at a time (default: the CPUs this process may use; in a task, one). `queue_max`: how
    many tasks may be unsettled; what comes above it is refused, its future raises `QueueFull`. `retry`: the default of
    the option of that name.
    """

    def __init__(
        self, *, workers: int | None = None, queue_max: int | None = None, retry: Retry | None = None
    ) -> None:
        if workers is None:
            workers = 1 if child.RUNNING is not None else cpus()
        for name, number in (("workers", workers), ("queue_max", queue_max)):
            if name == "workers" or number is not None:
                if not isinstance(number, int) or isinstance(number, bool):
                    raise TypeError(f"{name} is an int, not {number!r}")
                if number < 1:
                    raise ValueError(f"{name} is 1 or more, not {number}")
        if retry is not None and not isinstance(retry, Retry):
            raise TypeError(f"retry is a zmqtasks.Retry, not {retry!r}")
        host = LocalCluster(workers, queue_max, later="zmqtasks.context")
        super().__init__(host, Calls(host))
        if retry is not None:
            self._options = self._options.replace(retry=self._calls.rule(retry))
        self._finalizer = weakref.finalize(self, host.close, wait=False, cancel=False)
        self._finalizer.atexit = False  # the host's own exit waits for what is pending

    @property
    def workers(self) -> int:
        """How many tasks run at a time."""
        return int(self._host.workers)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more; when all is settled, end the workers. `cancel_futures`: cancel what has not started."""
        self._host.close(wait=wait, cancel=cancel_futures)

    def close(self) -> None:
        """`shutdown()`: wait for what is pending, and leave nothing behind."""
        self.shutdown()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for what is pending; on Ctrl-C and its like end it instead."""
        kill = kind is not None and not issubclass(kind, Exception)
        try:
            self._host.close(wait=True, cancel=kill, kill=kill)
        except BaseException:
            self._host.close(wait=True, cancel=True, kill=True)
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.__exit__, kind, error, traceback)
