"""The host of the client that a running task uses: the dispatcher that the task came from, over the child's links."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable
from typing import Any

from zmqtasks import codec, wire
from zmqtasks.blobs import Shelf
from zmqtasks.errors import TooDeep, ZmqTasksError
from zmqtasks.functions import Functions
from zmqtasks.members import Closed
from zmqtasks.messages import JOIN, QUEUED, Resumed, Task, Waiting
from zmqtasks.named import has_app
from zmqtasks.nodes.child import Child
from zmqtasks.nodes.faces import Faces
from zmqtasks.nodes.ids import Ids
from zmqtasks.visit import Yielded

_DEEP_SIGNAL = signal.SIGURG  # interrupts the main thread where it waits; ignored by default, used by few


class Upstream:
    """Submits by the child's data link; outcomes come by its control link, read by its service thread."""

    def __init__(self, child: Child) -> None:
        self.by_value = has_app()  # other workers have not imported what this one has
        self.functions = Functions(by_value=self.by_value)
        self.shelf = Shelf()
        self.cluster_id, session, self.workers = child.cluster
        self.ids = Ids(session)
        self._child = child
        self._told = {JOIN}  # numbers of the functions that the host has
        self._faces = Faces()
        self._answers: dict[int, tuple[threading.Event, list[bool]]] = {}
        self._tokens = itertools.count()
        self._submitting = threading.Lock()
        self._waits = 0  # of the main thread: it waits for a task, the host was told
        self._parked = False  # it may be interrupted
        self._refused = False
        child.inbox = self._hear
        if threading.current_thread() is threading.main_thread():
            signal.signal(_DEEP_SIGNAL, self._refuse)

    def submit(self, task: Task) -> None:
        """Take `task` in."""
        self.submit_all([task])

    def submit_all(self, tasks: list[Task], instead: dict[int, int] | None = None) -> None:
        """Take `tasks` in; `instead`: by the id of one of them the running task that is to end with its outcome."""
        known: dict[int, Any] = {}
        for task in tasks:
            for future in task.inputs:
                if (outcome := future.known()) is not None:
                    known[future.number] = outcome
            task.inputs = ()
        self._faces.add(tasks)
        with self._submitting:
            new = {task.fn for task in tasks} - self._told
            self._told |= new
            functions: wire.Functions = [self.functions.by_number[number] for number in new]
            self._child.send(codec.asked(tasks, known, functions, instead=instead))

    def close_join(self, id_: int, count: int) -> None:
        """The open join `id_` has `count` members: all were submitted."""
        self.submit_all([Task(id_, JOIN, Closed(id_, count))])

    def cancel(self, id_: int, *, terminate: bool) -> bool:
        """Ask the dispatcher."""
        token = next(self._tokens)
        answered, answer = self._answers[token] = (threading.Event(), [False])
        self._child.send(codec.simple(wire.CancelAsked(id_, terminate, token, 1)))
        answered.wait()
        return answer[0]

    def cancel_all(self, first: int, count: int) -> None:
        """Cancel what has not started; does not wait."""
        self._child.send(
            codec.simple(wire.CancelAsked(first, terminate=False, token=None, count=max(2, count)))
        )

    def state(self, _id: int, _within_s: float = 0, /) -> tuple[int, int]:
        """What a task knows of another that is not settled: it was handed on."""
        return QUEUED, 0

    def inquire(self, what: str, **_about: Any) -> Any:
        """A task has no way to ask."""
        raise ZmqTasksError(f"a running task cannot ask for {what}: ask where it was submitted")

    def accepted(self, timeout: float | None) -> bool:  # noqa: ARG002 - the dispatcher takes everything that is sent
        """What was written to the link is as good as accepted: the dispatcher reads it before it ends this process."""
        return True

    def raise_if_unusable(self) -> None:
        """It is usable as long as the process is."""

    def wait(self, park: Callable[[], bool], on: int) -> bool:
        """Give the slot away while the main thread parks."""
        if threading.current_thread() is not threading.main_thread():
            return park()
        try:
            self.begin_wait(on)
            return park()
        finally:
            self._parked = False
            self.end_wait()

    def begin_wait(self, on: int = -1) -> None:
        """The main thread is about to wait, for the task `on` or for any."""
        self._waits += 1
        if self._waits == 1:
            self._child.traces.at_end(self._stop_waiting)
            self._child.give_back(self._child.data)
            self._refused = False
            self._child.send(codec.simple(Waiting(on)))
        self._parked = True
        self._raise_if_refused()

    def end_wait(self) -> None:
        """The main thread goes on."""
        self._waits = max(0, self._waits - 1)
        if self._waits == 0:
            self._parked = False
            self._child.send(codec.simple(Resumed()))

    def _stop_waiting(self) -> None:
        """The task is over: so is its waiting, however it was left."""
        self._parked = False
        if self._waits:
            self._waits = 1
            self.end_wait()

    def watch(self, _future: Any) -> list[Any]:
        """A list for waiters that knows that somebody waits while one is in it."""
        return _Watchers(self)

    def call_back(self, call: Callable[[], object]) -> None:
        """Run a callback off the service thread."""
        threading.Thread(target=call, name="zmqtasks-callback", daemon=True).start()

    def _refuse(self, *_: object) -> None:
        """The host says no, in the main thread: now if it is parked, else as soon as it is."""
        self._refused = bool(self._waits)
        self._raise_if_refused()

    def _raise_if_refused(self) -> None:
        if self._refused and self._parked:
            self._refused = self._parked = False
            raise TooDeep(
                "too many tasks of this machine wait for others already (64): the recursion is too deep"
            )

    # ---- the service thread --------------------------------------------------------------------------------------

    def _hear(self, message: wire.Arrived) -> None:
        head = message.head
        if type(head) is wire.Settled:
            for outcome in codec.settled_outcomes(message):
                self._faces.settle(*outcome)
        elif type(head) is wire.CancelAnswer:
            answered, answer = self._answers.pop(head.token)
            answer[0] = head.cancelled
            answered.set()
        elif type(head) in (wire.Progress, Yielded):
            self._faces.report(head.id, codec.report(head))
        elif type(head) is wire.Signal and head.name == "deep":
            signal.pthread_kill(threading.main_thread().ident or 0, _DEEP_SIGNAL)


class _Watchers(list[Any]):
    """`concurrent.futures.wait` and `as_completed` put their waiters here for as long as they wait."""

    def __init__(self, upstream: Upstream) -> None:
        super().__init__()
        self._upstream = upstream
        self._mine: list[Any] = []

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        if threading.current_thread() is threading.main_thread():
            self._mine.append(waiter)
            self._upstream.begin_wait()

    def remove(self, waiter: Any) -> None:
        super().remove(waiter)
        if waiter in self._mine:
            self._mine.remove(waiter)
            self._upstream.end_wait()


_current: list[Upstream] = []


def upstream(child: Child) -> Upstream:
    """The one of this process."""
    if not _current:
        _current.append(Upstream(child))
    return _current[0]
