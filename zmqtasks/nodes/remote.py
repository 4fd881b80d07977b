"""A client's way to a broker: what is submitted goes there, and outcomes come from there.

One I/O thread owns the socket. A message with tasks is kept until the broker says that it has taken it in; if the
connection is lost meanwhile, it is sent again under the same ids, and the broker knows what it has. A broker that is
not the one of before has lost what was submitted: those futures fail, and say so.
"""

from __future__ import annotations

import os
import platform
import secrets
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from zmqtasks import codec, wire
from zmqtasks.blobs import Shelf
from zmqtasks.errors import (
    BrokerLost,
    ClientClosed,
    ConnectionTimeout,
    ForkedClient,
    UnknownTask,
    ZmqTasksError,
)
from zmqtasks.functions import Functions
from zmqtasks.keys import Key, load
from zmqtasks.messages import CANCELLED, GONE, LEASED, QUEUED, Report, Task
from zmqtasks.nodes.callbacks import Callbacks
from zmqtasks.nodes.dealer import Dealer
from zmqtasks.nodes.faces import Faces
from zmqtasks.nodes.ids import Ids
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.outgoing import Outgoing
from zmqtasks.nodes.questions import Questions
from zmqtasks.nodes.zap import keypair
from zmqtasks.visit import PROTOCOL, Enter, Fetch, Got, Inquiry, Refused, Taken, Welcome
from zmqtasks.visit import Report as Answer

RETRY_S = 0.2  # between two tries to reach a broker
ASK_S = 10.0  # what a question to a broker may take
CLOSE_S = 1.0


class RemoteCluster:
    """A broker with its workers, as one client sees them."""

    def __init__(self, address: str, key: Key | None, *, name: str, patient: bool, connect_s: float) -> None:
        self.address = address
        self.cluster_id = ""
        self.functions = Functions()
        self.shelf = Shelf()
        self.ids = Ids(0)
        self.workers = 1
        self.forked = False
        self._name = name
        self._patient = patient
        self._token = secrets.token_hex(16)
        self._key = key
        self._outgoing = Outgoing()
        self._words: deque[Any] = deque()  # other messages that are to be sent
        self._faces = Faces()
        self._told: set[int] = set()  # numbers of the functions that the broker has
        self._known: set[bytes] = set()  # hashes of the buffers that it has
        self._got = 0  # how many messages with outcomes have come
        self._questions = Questions()
        self._callbacks = Callbacks()
        self._welcomed = threading.Event()
        self._error: ZmqTasksError | None = None
        self._closing = self._closed = False
        self._loop = Loop()
        self._dealer = Dealer(self._loop, address, key)
        self._is_in = False  # the broker knows this connection
        self._thread = threading.Thread(target=self._run, name="zmqtasks-io", daemon=True)
        self._thread.start()
        self._wait_for_welcome(connect_s)
        _clusters.add(self)

    def _wait_for_welcome(self, connect_s: float) -> None:
        try:
            self._welcomed.wait(connect_s)
        finally:
            error = self._error
            if not self.cluster_id:
                self._stop()
        if not self.cluster_id:
            raise error or ConnectionTimeout(f"no broker answers at {self.address} within {connect_s:g} s")

    # ---- any thread ----------------------------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Take `task` in."""
        if self._closing or self.forked or self._error is not None:
            self.raise_if_unusable()
        if not self._outgoing.has_room:
            self._wait_for_room()
        self._outgoing.inbox.append(task)
        if self._loop.asleep:
            self._loop.wake()

    def submit_all(self, tasks: list[Task]) -> None:
        """Take `tasks` in."""
        self.raise_if_unusable()
        self._wait_for_room()
        self._outgoing.inbox.extend(tasks)
        self._loop.wake()

    def _wait_for_room(self) -> None:
        self._outgoing.wait(lambda: self._outgoing.has_room or self._closing or self._error is not None)
        self.raise_if_unusable()

    def raise_if_unusable(self) -> None:
        """Say why nothing can be submitted."""
        if self.forked:
            raise ForkedClient(
                "this client belongs to the process that this one was forked from: open one here"
            )
        if self._closing:
            raise ClientClosed("cannot schedule new futures after shutdown: this client is closed")
        if self._error is not None:
            raise self._error

    def cancel(self, id_: int, *, terminate: bool) -> bool:
        """Ask the broker."""
        return bool(self._ask(lambda token: wire.CancelAsked(id_, terminate, token, 1)))

    def cancel_all(self, first: int, count: int) -> None:
        """Cancel what has not started; does not wait."""
        self._say(wire.CancelAsked(first, terminate=False, token=None, count=max(2, count)))

    def state(self, id_: int) -> tuple[int, int]:
        """State and attempt, as the broker knows them; QUEUED as long as it cannot be asked."""
        try:
            state, attempt = self.inquire("state", id=id_)
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
        token, question = self._questions.new()
        self._say(word(token))
        if self._closed or self.forked:
            raise ClientClosed("this client is closed")
        if not question.done.wait(timeout):
            self._questions.take(token)
            raise ConnectionTimeout(f"the broker at {self.address} has not answered within {timeout:g} s")
        if question.error is not None:
            raise question.error
        return question.answer

    def _say(self, head: Any) -> None:
        self._words.append(head)
        self._loop.wake()

    def accepted(self, timeout: float | None) -> bool:
        """Wait until the broker has taken in everything that was submitted so far."""
        return self._outgoing.wait(lambda: self._closed or self._outgoing.is_empty, timeout)

    def wait(self, park: Callable[[], bool], _on: int) -> bool:
        """Let the calling thread park."""
        if self.forked:
            self.raise_if_unusable()
        return park()

    def watch(self, _future: Any) -> list[Any]:
        """A plain list: nothing hangs on who waits."""
        return []

    def call_back(self, call: Callable[[], object]) -> None:
        """Run a user's callback in a thread of its own."""
        self._callbacks.put(call)

    def close(self, *, wait: bool, cancel: bool, kill: bool = False) -> None:
        """No more tasks; with `wait`, end when all are settled, else as soon as all are accepted."""
        if self.forked or self._closed:
            return
        self._closing = True
        self._outgoing.notify()
        if cancel or kill:
            for first, items in self._faces.ranges():
                self.cancel_all(first, items)
        if threading.current_thread() is self._thread:
            self._stopping = True
            return
        outgoing = self._outgoing
        if wait and not kill:
            outgoing.wait(lambda: self._error is not None or not (self._faces or outgoing.inbox))
        else:
            outgoing.wait(lambda: outgoing.is_empty and not self._words, CLOSE_S)
        self._stop()

    def _stop(self) -> None:
        self._closing = self._stopping = True
        self._loop.wake()
        self._thread.join()

    def leave(self) -> None:
        """Let go of everything: in this process, a forked one, nothing of it is its own."""
        self.forked = True

    # ---- the I/O thread ------------------------------------------------------------------------------------------

    _stopping = False

    def _run(self) -> None:
        loop, dealer = self._loop, self._dealer
        retry_at: float | None = 0.0
        try:
            while not self._stopping and self._error is None:
                if retry_at is not None and monotonic() >= retry_at:
                    retry_at = None
                    dealer.connect()
                loop.asleep = True
                work = self._is_in and (self._words or (self._outgoing.inbox and self._outgoing.has_room))
                loop.wait(0.0 if work or dealer.has_mail() or self._stopping else retry_at)
                news = dealer.look()
                if news == "up":
                    self._enter()
                elif news == "down":
                    self._is_in = False
                    retry_at = monotonic() + RETRY_S
                if dealer.refused:
                    self._fail(BrokerLost(f"{self.address}: {dealer.refused}"))
                while dealer.has_mail() and (mail := dealer.mailbox.receive()) is not None:
                    if not self._hear(mail.message):
                        self._is_in = False
                        retry_at = monotonic() + RETRY_S
                        break
                if self._is_in:
                    self._send()
        finally:
            self._end()

    def _enter(self) -> None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        about = Enter(
            "client", self._name, PROTOCOL, version, self._token, self._got, self._patient,
            host=platform.node(), pid=os.getpid(),
        )  # fmt: skip
        self._dealer.send(codec.simple(about))

    def _send(self) -> None:
        if gone := self.shelf.take_gone():
            self._known -= gone
            self._dealer.send(codec.simple(wire.Forget(list(gone))))
        while self._outgoing.inbox and self._outgoing.has_room:
            self._send_tasks(self._outgoing.batch())
        while self._words:
            self._dealer.send(codec.simple(self._words.popleft()))

    def _send_tasks(self, tasks: list[Task]) -> None:
        known: dict[int, Any] = {}
        for task in tasks:
            for future in task.inputs:
                if (outcome := future.known()) is not None:
                    known[future.number] = outcome
            task.inputs = ()
        new = {task.fn for task in tasks} - self._told
        self._told |= new
        functions: wire.Functions = [self.functions.by_number[number] for number in new]
        self._faces.add(tasks)
        message = codec.asked(tasks, known, functions, self._known, afar=True)
        self._outgoing.add(message)
        self._dealer.send(message)

    def _hear(self, message: wire.Arrived | None) -> bool:
        """What the broker says; False if it does not talk to this connection."""
        if message is None:
            self._fail(BrokerLost(f"{self.address}: what came is no message of this version of zmqtasks"))
            return False
        head = message.head
        kind = type(head)
        if kind is wire.Settled:
            self._settled(message)
        elif kind is Taken:
            self._outgoing.take_off(head.count)
        elif kind is wire.CancelAnswer:
            self._cancel_answered(head)
        elif kind is wire.Fetched:
            self._fetched(message)
        elif kind is Answer:
            if (question := self._questions.take(head.token)) is not None:
                question.settle(head.answer, UnknownTask(head.error) if head.error else None)
        elif kind is wire.Progress:
            self._faces.report(head.id, Report(head.done, head.total, head.message, head.meta))
        elif kind is Welcome:
            self._welcome(head)
        elif kind is Refused:
            if head.final:
                self._fail(BrokerLost(f"{self.address}: {head.reason}"))
            return False
        return True

    def _welcome(self, head: Welcome) -> None:
        self.workers = max(1, head.slots)
        if head.taken < 0:  # it does not know this session
            if self._welcomed.is_set():
                self._lose_all()
            self.cluster_id = head.cluster_id
            self.ids = Ids(head.first)
            self._told.clear()
            self._known.clear()
            self._got = 0
            self._outgoing.begin_anew()
        else:
            self._outgoing.take_off(head.taken)
            # What names a function or a buffer counts on the messages before it: they are sent in their order again.
            for message in self._outgoing.untaken:
                self._dealer.send(message)
        self._is_in = True
        self._welcomed.set()

    def _settled(self, message: wire.Arrived) -> None:
        for blob in message.head.blobs:
            self._dealer.mailbox.keep(b"", blob.digest, message.buffer(blob.buffer, blob.digest))
        faces = self._faces
        for outcome in codec.settled_outcomes(message):
            faces.settle(*outcome)
            self._questions.outcome(outcome[0], cancelled=outcome[2] == CANCELLED)
        self._got += 1
        self._dealer.send(codec.simple(Got(self._got)))
        if not faces:
            self._outgoing.notify()

    def _cancel_answered(self, head: wire.CancelAnswer) -> None:
        question = self._questions.take(head.token)
        if question is None:
            return
        if head.cancelled and self._faces.has(head.id):
            self._questions.hold(head.id, question)
        else:
            question.settle(head.cancelled)

    def _fetched(self, message: wire.Arrived) -> None:
        head = message.head
        question = self._questions.take(head.token)
        if question is None:
            return
        for blob in head.blobs:
            self._dealer.mailbox.keep(b"", blob.digest, message.buffer(blob.buffer, blob.digest))
        if head.state < 0:
            question.settle(
                None, UnknownTask("the broker knows no such task, or keeps its outcome no longer")
            )
        else:
            payload = message.outcome(head.state, head.payload) if head.state else None
            question.settle((head.state, head.attempt, payload, head.index))

    def _lose_all(self) -> None:
        """Another broker answers: it knows nothing of what was submitted."""
        self._settle_all(GONE)
        self._questions.fail(BrokerLost(GONE))

    def _fail(self, error: ZmqTasksError) -> None:
        self._error = error

    def _settle_all(self, reason: str) -> None:
        while self._outgoing.inbox:
            self._faces.add([self._outgoing.inbox.popleft()])
        for task in self._faces.take_all():
            task.face.settle(task, CANCELLED, reason)

    def _end(self) -> None:
        self._closing = True
        if self._is_in:
            self._dealer.send(codec.simple(wire.Signal("bye")))
        self._dealer.close()
        reason = str(self._error) if self._error is not None else "the client was closed before it was done"
        self._settle_all(reason)
        self._questions.fail(ClientClosed("this client is closed"))
        self._loop.close()
        self._callbacks.close()
        self._welcomed.set()
        self._closed = True
        self._outgoing.notify()


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


def _close_all() -> None:
    """The interpreter ends: what was submitted is handed over, and not waited for."""
    for cluster in list(_clusters):
        cluster.close(wait=False, cancel=False)


os.register_at_fork(after_in_child=_leave_all)
