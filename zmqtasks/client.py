"""Clients: where closures are submitted."""

from __future__ import annotations

import os
import re
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from zmqtasks.calls import Calls
from zmqtasks.errors import BrokerLost, ResultExpired, UnknownTask
from zmqtasks.future import known_as
from zmqtasks.messages import FINAL_FROM, SUCCEEDED
from zmqtasks.nodes import child
from zmqtasks.nodes.cpus import cpus
from zmqtasks.nodes.local import LocalCluster
from zmqtasks.options import Duration, Retry, duration_s
from zmqtasks.outcome import load
from zmqtasks.payload import error_of
from zmqtasks.submitter import Submitter, number_of

if TYPE_CHECKING:
    from zmqtasks.introspection import Inspect

PORT_MAX = 65535


class Client(Submitter):
    """Workers of this machine, started here and gone with it, or a broker's: submit closures to them.

    `address`: a broker's, as `tcp://host:5555` (default: `ZMQTASKS_BROKER` in the environment, else none: workers of
    this machine). `ConnectionTimeout` if it does not answer within `connect_timeout` seconds. `key`: the path of a key
    file (default: `ZMQTASKS_KEY`, else this user's own). `on_full`: what becomes of a submit when the broker's queue is
    full: "wait" until there is room, or "raise" `QueueFull` from its future. `name`: how the broker lists this client.

    `workers`: how many tasks run at a time on this machine (default: the CPUs this process may use; in a task, one).
    `queue_max`: how many tasks may be unsettled here; what comes above it is refused, its future raises `QueueFull`.
    `retry`: the default of the option of that name.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        queue_max: int | None = None,
        key: str | os.PathLike[str] | None = None,
        name: str | None = None,
        on_full: str = "wait",
        connect_timeout: Duration = 5.0,
        retry: Retry | None = None,
    ) -> None:
        address = address or os.environ.get("ZMQTASKS_BROKER") or None
        for what, number in (("workers", workers), ("queue_max", queue_max)):
            if number is not None:
                if not isinstance(number, int) or isinstance(number, bool):  # type: ignore[redundant-expr]  # anything may be passed
                    raise TypeError(f"{what} is an int, not {number!r}")
                if number < 1:
                    raise ValueError(f"{what} is 1 or more, not {number}")
        if retry is not None and not isinstance(retry, Retry):
            raise TypeError(f"retry is a zmqtasks.Retry, not {retry!r}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name is text, not {name!r}")
        if on_full not in ("wait", "raise"):
            raise ValueError(f'on_full is "wait" or "raise", not {on_full!r}')
        connect_s = duration_s("connect_timeout", connect_timeout)
        host: Any
        if address is None:
            if workers is None:
                workers = 1 if child.RUNNING is not None else cpus()
            host = LocalCluster(workers, queue_max, later="zmqtasks.context")
        else:
            if workers is not None or queue_max is not None:
                raise ValueError(
                    "workers and queue_max are for a client without a broker: there the broker has them"
                )
            if not isinstance(address, str):
                raise TypeError(f"address is text as tcp://host:5555, not {address!r}")
            found = re.fullmatch(r"tcp://.+:(\d{1,5})|ipc://.+", address)
            if found is None or not 0 < int(found[1] or 1) <= PORT_MAX:
                raise ValueError(f"{address!r} is no address of a broker: tcp://host:5555, say")
            from zmqtasks.nodes.remote import connect

            host = connect(address, key, name=name or "", patient=on_full == "wait", connect_s=connect_s)
        super().__init__(host, Calls(host))
        if retry is not None:
            self._options = self._options.replace(retry=self._calls.rule(retry))
        self._finalizer = weakref.finalize(self, host.close, wait=False, cancel=False)
        self._finalizer.atexit = False  # the host's own exit waits for what is pending

    @property
    def workers(self) -> int:
        """How many tasks run at a time."""
        return int(self._host.workers)

    @property
    def inspect(self) -> Inspect:
        """What the broker, or this client's own dispatcher, says of itself."""
        from zmqtasks.introspection import Inspect

        return Inspect(self._host)

    def result(self, task_id: str, timeout: float | None = None) -> Any:
        """The value of a task by its id, whoever has submitted it to this broker; raises what it raised.

        `UnknownTask` for an id that nobody submitted, `ResultExpired` for a task whose outcome is kept no longer;
        `TimeoutError` if there is none within `timeout` seconds. Without a broker it is kept by the task's future.
        """
        host = self._host
        future = known_as(task_id)
        number = number_of(task_id, host.cluster_id)
        if future is not None and future.host is host:
            try:
                return future.result(timeout)
            except BrokerLost:  # by this client, which was away for too long; the broker may have its outcome
                if number is None or isinstance(host, LocalCluster):
                    raise
        if number is None:
            raise UnknownTask(f"{task_id} is no task of this client's")
        if isinstance(host, LocalCluster):
            raise self._not_kept(task_id, number)
        try:
            state, _, payload, index = host.fetch(number, timeout=timeout)
        except UnknownTask:
            raise self._not_kept(task_id, number) from None
        if state < FINAL_FROM:
            raise TimeoutError(f"no outcome of {task_id} within {timeout:g} s")
        if state != SUCCEEDED:
            raise error_of(state, payload, task_id, host.cluster_id)
        opened = load(payload, task_id)
        if opened.error is not None:
            raise opened.error
        return opened.value if index < 0 else opened.value[index]

    def _not_kept(self, task_id: str, number: int) -> ResultExpired:
        """Why a task has no outcome here; `UnknownTask` if there never was one."""
        state = self._host.inquire("explain", id=number)["state"]
        return ResultExpired(
            f"task {task_id} is {state}: whoever has its future has its outcome, nobody else"
        )

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
