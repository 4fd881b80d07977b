"""Futures: what `submit` gives back.

A `concurrent.futures.Future` takes 1,600 bytes and 1.9 us, most of it a condition and two lists that are rarely used.
This one is one too, and makes them when somebody asks for them. Only the host's I/O thread settles a future, and it
never runs the user's code: values are unpickled where `result()` is called.

How settling and waiting meet: what a waiter needs is made under one lock, and a future that has none of it is settled
under that lock, so whoever comes later sees the state. Where there is something, the state changes with the condition
held, as `concurrent.futures.wait` and `as_completed` count on.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from zmqtasks.event import Event, events_of
from zmqtasks.host import Host
from zmqtasks.messages import (
    CANCELLED,
    FACE,
    FAILED,
    FINAL_FROM,
    LEASED,
    QUEUED,
    SUCCEEDED,
    Items,
    Report,
    State,
    Task,
)
from zmqtasks.outcome import Item, Opened, Piece, as_input, is_light, load
from zmqtasks.payload import error_of, is_refusal
from zmqtasks.yielded import Yielded

T = TypeVar("T")

_STATE_S = 0.1  # what a wait that is over may take beyond its time, to say where the task is
_making = threading.Lock()  # of conditions: rare
_KNOWN: WeakValueDictionary[str, Future[Any]] = WeakValueDictionary()  # those whose id somebody has looked at
os.register_at_fork(after_in_child=_making._at_fork_reinit)  # type: ignore[attr-defined]  # noqa: SLF001 - as concurrent.futures does


class _More:
    """What a future has once somebody waits for it, calls back, or hears of its progress."""

    __slots__ = ("callbacks", "condition", "latch", "progress", "waiters", "yielded")

    def __init__(self) -> None:
        self.condition: threading.Condition | None = None
        self.latch: Any = None  # the first thread that waits sleeps on this: a fifth of a condition's cost
        self.callbacks: list[Callable[[Any], object]] = []
        self.waiters: list[Any] | None = None
        self.progress: Report | None = None
        self.yielded: Yielded | None = None


class Future(concurrent.futures.Future[T], Generic[T]):
    """The outcome of one task, a `concurrent.futures.Future`; awaitable too."""

    __slots__ = ("_attempts", "_code", "_host", "_more", "_number", "_outcome")

    def __init__(self, host: Host, number: int) -> None:
        self._host = host
        self._number = number
        self._code = QUEUED
        self._outcome: Any = None
        self._attempts = 0
        self._more: _More | None = None

    # ---- what concurrent.futures looks at: there attributes, here made when somebody looks ------------------------

    def _extend(self) -> _More:
        if self._more is None:
            with _making:
                if self._more is None:
                    self._more = _More()
        return self._more

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]  # see above
        more = self._extend()
        if more.condition is None:
            with _making:
                if more.condition is None:
                    more.condition = threading.Condition()
        return more.condition

    @property
    def _state(self) -> str:  # type: ignore[override]  # see above
        if self._code < FINAL_FROM:
            return "PENDING"
        return "CANCELLED_AND_NOTIFIED" if self._code == CANCELLED else "FINISHED"

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]  # see above
        more = self._extend()
        if more.waiters is None:  # the caller holds the condition
            more.waiters = self._host.watch(self)
        return more.waiters

    @property
    def _done_callbacks(self) -> list[Callable[[Any], object]]:
        return self._extend().callbacks

    @property
    def _result(self) -> Any:  # type: ignore[override]  # see above
        return self._open().value if self._code >= FINAL_FROM else None

    @property
    def _exception(self) -> BaseException | None:  # type: ignore[override]  # see above
        return self._open().error if self._code >= FINAL_FROM else None

    # ---- settling --------------------------------------------------------------------------------------------------

    def settle(self, task: Task, state: int, outcome: Any) -> None:
        """The one final outcome; called by the host alone."""
        self._set(task.attempt, state, outcome)

    def take(self, piece: Piece, index: int) -> None:
        """The same, for an item of an array."""
        outcome = Item(piece, index) if piece.state == SUCCEEDED else piece.outcome
        self._set(piece.attempts, piece.state, outcome)

    def _set(self, attempts: int, state: int, outcome: Any) -> None:
        if state == CANCELLED and is_refusal(outcome):
            state = FAILED  # nobody has cancelled it: what waits for it gets the error
        self._attempts = attempts
        self._outcome = outcome
        latch: Any = None
        with _making:
            more = self._more
            watched = more is not None and more.condition is not None
            if not watched:  # nobody looks with the condition held, and who comes later sees the state
                self._code = state
                latch = None if more is None else more.latch
        if more is not None and watched:
            self._notify(more, state)
        elif latch is not None and latch.locked():
            latch.release()
        if more is not None and more.yielded is not None:
            more.yielded.end()

    def _notify(self, more: _More, state: int) -> None:
        with self._condition:  # what looks at the state and leaves a waiter does so with it held
            self._code = state
            latch = more.latch
            if latch is not None and latch.locked():
                latch.release()
            callbacks, more.callbacks = more.callbacks, []
            for waiter in more.waiters or ():
                if self._code == CANCELLED:
                    waiter.add_cancelled(self)
                elif self._code == SUCCEEDED:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            self._condition.notify_all()
        for callback in callbacks:
            self._host.call_back(functools.partial(callback, self))

    def report(self, _id: int, report: Report | Items) -> None:
        """The task says how far it is, or what it has yielded; called by the host alone."""
        if isinstance(report, Report):
            self._extend().progress = report
        else:
            self._yields().put(report)

    @property
    def number(self) -> int:
        """The id within its cluster."""
        return self._number

    @property
    def host(self) -> Host:
        """What carries the task."""
        return self._host

    # ---- the public face -------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The task's id: the same text for every peer."""
        id_ = self._text()
        _KNOWN[id_] = self
        return id_

    def _text(self) -> str:
        return f"{self._host.cluster_id}-{self._number}"

    @property
    def state(self) -> State:
        """Where the task is in its life."""
        code = self._host.state(self._number)[0] if self._code < FINAL_FROM else self._code
        return FACE[self._code if self._code >= FINAL_FROM else code]  # it may have ended meanwhile

    @property
    def attempts(self) -> int:
        """How often the task was handed to a worker."""
        return self._attempts if self._code >= FINAL_FROM else self._host.state(self._number)[1]

    @property
    def progress(self) -> Report | None:
        """The task's last word on how far it is: `done`, `total`, `message`, `meta`; None if it said nothing."""
        return self._more.progress if self._more is not None else None

    @property
    def children(self) -> Sequence[Future[Any]]:
        """The futures of a group's members, each made when it is looked at; of anything else there are none."""
        return ()

    def events(self) -> list[Event]:
        """What has happened to the task, in its order; of a workflow's future, to each task and group in it.

        The dispatcher remembers some megabytes of this: what is older is forgotten, and a task of which the beginning
        is forgotten begins with an event that says so. Not to be had inside a task.
        """
        events = events_of(self._host, self._number)
        if (
            self._code == FAILED and (error := self._open().error) is not None
        ):  # the dispatcher cannot open it
            said = f"{type(error).__name__}: {error}".rstrip(": ").partition("\n")[0]
            events = [
                each._replace(reason=said) if each.state == State.FAILED and each.id == self._text() else each
                for each in events
            ]
        return events

    def accepted(self, timeout: float | None = None) -> bool:
        """Wait until the dispatcher has taken the task in; False if that takes more than `timeout` seconds."""
        return self._code >= FINAL_FROM or self._host.accepted(timeout)

    def running(self) -> bool:
        """Whether the task has started and is not done."""
        return self._code < FINAL_FROM and self._host.state(self._number)[0] == LEASED

    def done(self) -> bool:
        """Whether there is an outcome."""
        return self._code >= FINAL_FROM

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self._code == CANCELLED

    def cancel(self, terminate: bool = False) -> bool:
        """Remove the task if it has not started; with `terminate` end it if it runs. Whether it is cancelled now."""
        if self._code < FINAL_FROM:
            self._host.cancel(self._number, terminate=terminate)
        return self._code == CANCELLED

    def result(self, timeout: float | None = None) -> T:
        """The task's value; raises what it raised, or `TimeoutError` after `timeout` seconds."""
        if self._code < FINAL_FROM and not self._host.wait(lambda: self._park(timeout), self._number):
            raise self._timed_out(timeout)
        outcome = self._outcome
        opened = outcome if type(outcome) is Opened else self._open()
        if opened.error is not None:
            try:
                raise opened.error
            finally:
                del self, opened, outcome  # the error would hold the frame, and the frame the error
        value: T = opened.value
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task raised, or None; `TimeoutError` after `timeout` seconds."""
        if self._code < FINAL_FROM and not self._host.wait(lambda: self._park(timeout), self._number):
            raise self._timed_out(timeout)
        error = self._open().error
        if self._code == CANCELLED and error is not None:
            raise error
        return error

    def stream(self) -> Iterator[Any]:
        """The items of a generator task, in order, each as soon as it is there; raises what the task raised.

        An attempt that follows a failed one, or a lost worker, goes on after the items that were given out, counted. A
        `TypeError` if the task is no generator. The items of one task are kept until its future is gone, 64 MiB at most
        together; `result()` is the value that the generator returned.
        """
        return self._yields().each(self)

    def _yields(self) -> Yielded:
        more = self._extend()
        with _making:
            if more.yielded is None:
                more.yielded = Yielded()
            return more.yielded

    def _timed_out(self, timeout: float | None) -> TimeoutError:
        """The error of a wait: where the task is, as far as that is known at once."""
        state = self._code if self._code >= FINAL_FROM else self._host.state(self._number, _STATE_S)[0]
        return TimeoutError(f"no outcome within {timeout} s (state {FACE[state]})")

    def _park(self, timeout: float | None) -> bool:
        """Wait until settled; the first who waits does so on a lock of its own."""
        more = self._extend()
        with _making:
            mine = more.latch is None
            if mine:
                more.latch = threading.Lock()
                more.latch.acquire()
        if mine:
            if self._code < FINAL_FROM:
                more.latch.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
            more.latch = None
            return self._code >= FINAL_FROM
        with self._condition:
            return self._condition.wait_for(self.done, timeout)

    def _open(self) -> Opened:
        outcome = self._outcome
        if type(outcome) is not Opened:
            if self._code == SUCCEEDED:
                opened = load(outcome, self._text())
            else:
                opened = Opened(
                    None, error_of(self._code, outcome, self._text(), self._host.cluster_id), outcome
                )
            outcome = self._outcome = opened
        return outcome

    def known(self) -> tuple[int, Any] | None:
        """The state, and the value as an input of other tasks or the reason why there is none; None if not settled."""
        return as_input(self._code, self._outcome) if self._code >= FINAL_FROM else None

    def is_light(self) -> bool:
        """Whether an outcome goes along with each submit that needs it; True if there is none."""
        return self._code < FINAL_FROM or is_light(self._code, self._outcome)

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(future)` when there is an outcome, in a thread of the client's; at once if there is one."""
        super().add_done_callback(fn)  # type: ignore[arg-type]  # there it takes any future

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        from zmqtasks.nodes import child

        wrapped = asyncio.wrap_future(self)
        with child.RUNNING.asking() if child.RUNNING is not None else nullcontext():
            return (yield from wrapped.__await__())

    def __repr__(self) -> str:
        return f"<zmqtasks.Future {self._text()} {self.state}>"

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError(
            "a future cannot be pickled; as an argument of the same client's submit it stands for its value"
        )

    def _no_setting(self, *_: object) -> None:
        raise concurrent.futures.InvalidStateError("only the task's outcome settles this future")

    set_result = set_exception = set_running_or_notify_cancel = _no_setting  # type: ignore[assignment]  # whatever they take


def known_as(task_id: str) -> Future[Any] | None:
    """The future in this process that has told somebody this id, while anybody has it."""
    return _KNOWN.get(task_id)
