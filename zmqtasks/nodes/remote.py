"""A broker with its workers, as one client sees them: what any thread asks of it. The talking is done by a `Line`.

A forked process has no line of its parent's: it opens one of its own when it first uses the client.
"""

from __future__ import annotations

import atexit
import os
import platform
import secrets
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from zmqtasks import wire
from zmqtasks.blobs import Shelf
from zmqtasks.errors import (
    BrokerLost,
    ClientClosed,
    ConnectionTimeout,
    ForkedClient,
    UnknownTask,
)
from zmqtasks.functions import Functions
from zmqtasks.keys import Key, load
from zmqtasks.members import Closed
from zmqtasks.messages import JOIN, LEASED, QUEUED, Task
from zmqtasks.nodes.callbacks import Callbacks
from zmqtasks.nodes.ids import Ids, session_of
from zmqtasks.nodes.line import Line
from zmqtasks.nodes.questions import Question
from zmqtasks.nodes.zap import keypair
from zmqtasks.visit import PROTOCOL, Enough, Enter, Fetch, Inquiry

PYTHON = (
    f"{sys.version_info.major}.{sys.version_info.minor}"  # only workers of the same can run its functions
)
ASK_S = 10.0  # what a question to a broker may take
ACCEPTED_S = 0.1  # what a task may take to get in before it is asked about
CLOSE_S = 1.0  # what handing over may take where nobody waits for outcomes


class RemoteCluster:
    """The host of a broker's client."""

    def __init__(
        self,
        address: str,
        key: Key | None,
        *,
        name: str,
        patient: bool,
        connect_s: float,
        confirms: bool = True,  # False: the broker keeps outcomes that were sent here, for others to ask for
    ) -> None:
        self.address = address
        self.functions = Functions(by_value=True)
        self.shelf = Shelf()
        self.by_value = True
        self._key = key
        self._name = name
        self._patient = patient
        self._confirms = confirms
        self._connect_s = connect_s
        self._callbacks = Callbacks()
        self._opening = threading.Lock()
        self._closed = False
        self._forked_from: set[int] = set()  # sessions of the processes that this one was forked from
        self._inherited: list[Line] = []  # their lines: kept, for to take one down would be felt there
        self._line: Line | None = None
        self._open()
        _clusters.add(self)

    def _open(self) -> Line:
        about = Enter(
            "client", self._name, PROTOCOL, PYTHON, secrets.token_hex(16), 0, self._patient,
            host=platform.node(), pid=os.getpid(),
        )  # fmt: skip
        line = Line(
            self.address,
            self._key,
            about,
            self.functions,
            self.shelf,
            at_end=self._end,
            confirms=self._confirms,
        )
        try:
            line.welcomed.wait(self._connect_s)
        finally:
            if not line.cluster_id:
                line.stop(0.0)
        if not line.cluster_id:
            raise line.error or ConnectionTimeout(
                f"no broker answers at {self.address} within {self._connect_s:g} s"
            )
        self._line = line
        return line

    @property
    def line(self) -> Line:
        """The line of this process."""
        line = self._line
        if line is not None:
            return line
        with self._opening:
            if self._line is None:
                if self._closed:
                    raise ClientClosed("this client was closed before this process was forked")
                return self._open()
            return self._line

    @property
    def cluster_id(self) -> str:
        """The prefix of ids."""
        return self.line.cluster_id if self._line is not None or not self._inherited else self._before()

    def _before(self) -> str:
        return self._inherited[-1].cluster_id

    @property
    def ids(self) -> Ids:
        """Numbers for tasks."""
        return self.line.ids

    @property
    def workers(self) -> int:
        """How many tasks all nodes run at a time."""
        return self.line.workers

    # ---- submitting ----------------------------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Take `task` in; waits while the broker has no room."""
        line = self.line
        if line.closing or line.error is not None:
            self.raise_if_unusable()
        if not line.outgoing.has_room:
            self._wait_for_room(line)
        line.put(task)

    def submit_all(self, tasks: list[Task]) -> None:
        """Take `tasks` in."""
        self.raise_if_unusable()
        line = self.line
        self._wait_for_room(line)
        line.put_all(tasks)

    def close_join(self, id_: int, count: int) -> None:
        """The open join `id_` has `count` members: all were submitted. Does not wait."""
        self.line.put_all([Task(id_, JOIN, Closed(id_, count), root=id_)])

    def _wait_for_room(self, line: Line) -> None:
        line.outgoing.wait(lambda: line.outgoing.has_room or line.closing or line.error is not None)
        self.raise_if_unusable()

    def raise_if_unusable(self) -> None:
        """Say why nothing can be submitted."""
        line = self.line
        if line.error is not None:
            raise line.error
        if line.closing:
            raise ClientClosed("cannot schedule new futures after shutdown: this client is closed")

    def accepted(self, timeout: float | None) -> bool:
        """Wait until the broker has taken in everything that was submitted so far."""
        outgoing = self.line.outgoing
        outgoing.wait(lambda: self.line.closed or outgoing.is_empty, timeout)
        return outgoing.is_empty

    # ---- asking --------------------------------------------------------------------------------------------------

    def cancel(self, id_: int, *, terminate: bool) -> bool:
        """Ask the broker."""
        self._refuse_inherited(id_)
        if self.line.closed:
            return False
        return bool(self._ask(partial(_cancel, id_, terminate)))

    def cancel_each(self, ids: Iterable[int], *, terminate: bool) -> dict[int, bool]:
        """Ask for all of these before the first answer is waited for: which are cancelled."""
        asked = {id_: self._put(partial(_cancel, id_, terminate)) for id_ in ids}
        return {id_: bool(self._answer(question, ASK_S)) for id_, question in asked.items()}

    def cancel_all(self, first: int, count: int) -> None:
        """Cancel what has not started; does not wait."""
        self.line.say(wire.CancelAsked(first, terminate=False, token=None, count=max(2, count)))

    def state(self, id_: int, within_s: float = ASK_S, /) -> tuple[int, int]:
        """State and attempt, as the broker knows them; QUEUED as long as it cannot be asked."""
        if session_of(id_) in self._forked_from or not self.line.is_in:
            return QUEUED, 0
        self.accepted(min(ACCEPTED_S, within_s))  # or the question might overtake the task
        try:
            state, attempt = self._ask(lambda token: Inquiry(token, "state", {"id": id_}), within_s)
        except (UnknownTask, BrokerLost, ClientClosed, ConnectionTimeout):
            return QUEUED, 0
        return min(state, LEASED), attempt

    def inquire(self, what: str, **about: Any) -> Any:
        """Ask the broker about itself."""
        return self._ask(lambda token: Inquiry(token, what, about))

    def fetch(self, id_: int, *, timeout: float | None) -> tuple[int, int, Any, int]:
        """An outcome that the broker has or will have: state, attempt, payload, place in it or -1.

        `TimeoutError` if there is none within `timeout` seconds; with 0, state 0.
        """
        wait = timeout != 0
        found: tuple[int, int, Any, int] = self._ask(
            lambda token: Fetch(token, id_, wait), None if wait and timeout is None else (timeout or ASK_S)
        )
        return found

    def _ask(self, word: Callable[[int], Any], timeout: float | None = ASK_S) -> Any:
        return self._answer(self._put(word), timeout)

    def _put(self, word: Callable[[int], Any]) -> Question:
        question = Question(word)
        self.line.ask(question)
        return question

    def _answer(self, question: Question, timeout: float | None) -> Any:
        if not question.done.wait(timeout):
            self.line.questions.take(question.token)
            if isinstance(question.word, Fetch) and question.word.wait:
                self.line.say(Enough(question.token))
            raise ConnectionTimeout(f"the broker at {self.address} has not answered within {timeout:g} s")
        if question.error is not None:
            raise question.error
        return question.answer

    # ---- waiting -------------------------------------------------------------------------------------------------

    def wait(self, park: Callable[[], bool], on: int) -> bool:
        """Let the calling thread park, to wait for task `on`."""
        self._refuse_inherited(on)
        return park()

    def _refuse_inherited(self, id_: int) -> None:
        if self._forked_from and session_of(id_) in self._forked_from:
            raise ForkedClient(
                "this future belongs to the process that this one was forked from, which alone hears of its outcome"
            )

    def watch(self, _future: Any) -> list[Any]:
        """A plain list: nothing hangs on who waits."""
        return []

    def call_back(self, call: Callable[[], object]) -> None:
        """Run a user's callback in a thread of its own."""
        self._callbacks.put(call)

    # ---- the end -------------------------------------------------------------------------------------------------

    def close(self, *, wait: bool, cancel: bool, kill: bool = False) -> None:
        """No more tasks; end when all are settled. `cancel`: those that have not started; `kill`: do not wait then."""
        self._closed = True
        line = self._line
        if line is None:
            return
        line.close(cancel=cancel or kill)
        if kill:
            line.stop(CLOSE_S)
        elif wait and threading.current_thread() is not line.thread:
            line.thread.join()

    def _end(self) -> None:
        self.shelf.clear()
        self._callbacks.close()

    def depart(self) -> None:
        """Hand over what was submitted, in about a second, and end: nobody waits for outcomes here."""
        self._closed = True
        if self._line is not None:
            self._line.stop(CLOSE_S)

    def leave(self) -> None:
        """A forked process begins: of the line that its parent has, nothing is its own."""
        if self._line is not None:
            self._inherited.append(self._line)
            self._forked_from.add(self._line.session)
            self._closed = self._closed or self._line.closing
            self._line = None
        self.functions.reset_lock()
        self.shelf.reset_lock()
        self._callbacks = Callbacks()
        self._opening = threading.Lock()


def _cancel(id_: int, terminate: bool, token: int) -> wire.CancelAsked:
    return wire.CancelAsked(id_, terminate, token, 1)


def connect(
    address: str, key_file: str | os.PathLike[str] | None, *, name: str, patient: bool, connect_s: float
) -> RemoteCluster:
    """Reach a broker, with the key in `key_file`, or this user's own."""
    key = None
    if not address.startswith("ipc:"):
        key = load(os.fspath(key_file) if key_file is not None else None, "client", keypair, address=address)
    return RemoteCluster(address, key, name=name, patient=patient, connect_s=connect_s)


_clusters: weakref.WeakSet[RemoteCluster] = weakref.WeakSet()


def _leave_all() -> None:
    for cluster in list(_clusters):
        cluster.leave()


def _depart_all() -> None:
    """The interpreter ends: what was submitted is handed over, and not waited for."""
    for cluster in list(_clusters):
        cluster.depart()


atexit.register(_depart_all)
os.register_at_fork(after_in_child=_leave_all)
