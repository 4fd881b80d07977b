"""Submitting: the verbs that a client and a running task share."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from zmqtasks.array import Array
from zmqtasks.calls import Calls, NotASpan, rows
from zmqtasks.errors import ForeignFuture, UnknownTask, ZmqTasksError
from zmqtasks.future import Future
from zmqtasks.messages import SUCCEEDED, State, Task
from zmqtasks.options import DEFAULT_OPTIONS, Options

if TYPE_CHECKING:
    from zmqtasks.flow import Workflow
    from zmqtasks.plan import Plan

P = ParamSpec("P")
T = TypeVar("T")


class Submitter(concurrent.futures.Executor):
    """Submits calls with certain options; a `concurrent.futures.Executor`."""

    def __init__(self, host: Any, calls: Calls, options: Options = DEFAULT_OPTIONS) -> None:
        self._host = host
        self._calls = calls
        self._options = options

    def options(self, **options: Any) -> Submitter:
        """The same client with options, those of `Options`.

        They are `priority`, `countdown`, `expires`, `retry`, `time_limit`, `max_deliveries`, `name`, `queue`, `tags`;
        and `eta`, a `datetime` (of local time where it has no zone), for the countdown until then.
        """
        return Submitter(self._host, self._calls, self._calls.options(self._options, options))

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...
    @overload
    def submit(
        self, fn: Callable[P, Generator[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn(*args, **kwargs)` in a worker; every keyword is the function's.

        Where `fn` is a coroutine function, many of its calls are under way in one process at a time; where it is a
        generator function, its items are in the future's `stream()`.

        Futures of this client among the arguments, at any depth, are waited for, and their values stand in their place.
        Raises `NotPicklable`, naming the culprit, if something cannot travel.
        """
        if not callable(fn):
            raise TypeError(f"the first argument is what to call, not {fn!r}")
        return self.enqueue(fn, args, kwargs)

    def enqueue(
        self, task: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        """`submit` of a function, or of a task by its name, with the arguments as they are."""
        call = self._calls.task(task, args, kwargs, self._options)
        future: Future[Any] = Future(self._host, call.id)
        call.face = future
        self._host.submit(call)
        return future

    def run(self, workflow: Workflow) -> Future[Any]:
        """Run a signature, chain, group or chord: the future of its outcome; a group's has `children`.

        Futures of this client among the arguments are waited for. The members of an iterator are read in this thread,
        as they can be run; what it raises is raised here, and cancels the workflow.
        """
        from zmqtasks.header import feed

        plan = self._plan(workflow)
        future = plan.root(workflow)
        feed(self._host, plan, future)
        return future

    def run_instead(self, workflow: Workflow, id_: int) -> int:
        """The same for a running task, whose outcome that of the workflow will be; the id of that one."""
        from zmqtasks.header import feed

        plan = self._plan(workflow)
        future = plan.root(workflow, heard=False)
        feed(self._host, plan, future, {future.number: id_})
        return future.number

    def _plan(self, workflow: Workflow) -> Plan:
        from zmqtasks.plan import Plan

        if not hasattr(workflow, "to_mermaid"):
            raise TypeError(f"what is run is a signature or a workflow, not {workflow!r:.80}")
        self._host.raise_if_unusable()
        return Plan(self._host, self._calls, self._options)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """The values of `fn` over the iterables, in their order; raises at the first failure, and cancels the rest.

        `timeout`: seconds from now to the last value. `chunksize`: neighbours that travel together (default: by the
        number of items). `buffersize`: take items lazily, that many ahead of what was given out.
        """
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
            return self._map_lazily(fn, zip(*iterables, strict=False), timeout, buffersize)
        if not iterables:
            return iter(())
        futures = self._submit_rows(fn, rows(iterables), star=len(iterables) > 1, chunksize=chunksize)
        return _values(futures, timeout)

    def submit_many(self, fn: Callable[[Any], T], items: Iterable[Any]) -> Sequence[Future[T]]:
        """`fn` of each item: a sequence of futures, each made when it is looked at."""
        return self._submit_rows(fn, list(items), star=False, chunksize=None)

    def gather(self, futures: Iterable[concurrent.futures.Future[T]]) -> list[T]:
        """The values of futures, in their order; raises what the first failed one raised."""
        return [future.result() for future in futures]

    def cancel(self, future: concurrent.futures.Future[Any] | str, *, terminate: bool = False) -> bool:
        """Cancel a task by its future or id, as `Future.cancel` does; `UnknownTask` for an id that nobody submitted."""
        if isinstance(future, Future):
            return future.cancel(terminate)
        if isinstance(future, concurrent.futures.Future):
            raise ForeignFuture(f"no future of zmqtasks: {future!r}")
        if not isinstance(future, str):
            raise TypeError(f"what is cancelled is a future, or a task by its id, not {future!r}")
        if (number := number_of(future, self._host.cluster_id)) is None:
            raise UnknownTask(f"{future} is no task of this client's")
        return bool(self._host.cancel(number, terminate=terminate)) or self._is_cancelled(number)

    def _is_cancelled(self, number: int) -> bool:
        """Whether a task that cannot be cancelled is so already; `UnknownTask` where there never was one."""
        try:
            return bool(self._host.inquire("explain", id=number)["state"] == State.CANCELLED)
        except UnknownTask:
            raise
        except ZmqTasksError:  # a running task cannot ask
            return False

    def scatter(self, value: T) -> Future[T]:
        """Send once what many tasks use: a future, to be passed to them as an argument."""
        future: Future[T] = Future(self._host, self._host.ids.next())
        future.settle(Task(future.number, 0, b""), SUCCEEDED, self._calls.value(value))
        return future

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything submitted is accepted; False if that takes more than `timeout` seconds."""
        return bool(self._host.accepted(timeout))

    def _submit_rows(
        self, fn: Callable[..., T], items: list[Any], *, star: bool, chunksize: int | None
    ) -> Sequence[Future[T]]:
        self._host.raise_if_unusable()
        if not items:
            return []
        size = chunksize or self._calls.span_size(len(items))
        if not self._options.countdown:
            try:
                tasks = self._calls.spans(fn, items, size, self._options, star=star)
            except NotASpan:
                pass
            else:
                array: Array[T] = Array(self._host, tasks[0].id, len(items))
                for task in tasks:
                    task.face = array
                self._host.submit_all(tasks)
                return array
        return [self.submit(fn, *item) if star else self.submit(fn, item) for item in items]

    def _map_lazily(
        self, fn: Callable[..., T], calls: Iterator[tuple[Any, ...]], timeout: float | None, ahead: int
    ) -> Iterator[T]:
        futures = deque(self.submit(fn, *args) for args in itertools.islice(calls, ahead))

        def refill() -> Iterator[Future[T]]:
            while futures:
                for args in itertools.islice(calls, 1):
                    futures.append(self.submit(fn, *args))
                yield futures.popleft()

        return _in_order(refill(), futures, timeout)

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError("a client cannot travel to a task; inside a task, zmqtasks.current().client submits")


def number_of(task_id: str, cluster_id: str) -> int | None:
    """The number of a task of that cluster by its id; None if it is of another, or no id."""
    cluster, _, number = task_id.rpartition("-")
    return int(number) if cluster == cluster_id and number.isdecimal() else None


def _values(futures: Sequence[Future[T]], timeout: float | None) -> Iterator[T]:
    if not isinstance(futures, Array):
        return _in_order(iter(futures), futures, timeout)

    def values() -> Iterator[T]:
        try:
            yield from given
        finally:
            futures.cancel()

    given = futures.values(timeout)
    return values()


def _in_order(futures: Iterator[Future[T]], rest: Iterable[Future[T]], timeout: float | None) -> Iterator[T]:
    end = None if timeout is None else monotonic() + timeout
    try:
        for future in futures:
            yield future.result(None if end is None else end - monotonic())
    finally:
        for future in rest:
            future.cancel()
