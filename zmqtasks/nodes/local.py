"""The embedded cluster: a dispatcher in this process, over children of this process.

One I/O thread owns the sockets. Whoever submits appends to a queue and wakes that thread only if it sleeps; where
nothing else is in flight the submitter takes the turn itself, which saves a wake-up of 30 us.
"""

from __future__ import annotations

import atexit
import os
import secrets
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from zmqtasks import codec, files, wire
from zmqtasks.blobs import Shelf
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import Answer, End, Look, Send, Settle
from zmqtasks.core.history import History
from zmqtasks.core.results import end
from zmqtasks.errors import ClientClosed, ForkedClient, UnknownTask
from zmqtasks.functions import Functions
from zmqtasks.members import Closed, Gone
from zmqtasks.messages import CANCELLED, DEAD, JOIN, QUEUED, Cancel, Joined, Run, Submit, Task
from zmqtasks.nodes.asks import Asker, Asks
from zmqtasks.nodes.callbacks import Callbacks
from zmqtasks.nodes.children import Children, Heard
from zmqtasks.nodes.cpus import cpus
from zmqtasks.nodes.crew import SESSIONS_MAX, ChildLink, occupy_standard_descriptors
from zmqtasks.nodes.ids import Ids, ids_of
from zmqtasks.nodes.loop import Loop
from zmqtasks.visit import Yielded

ACCEPTED_S = 0.1  # what a task may take to get in before it is asked about
CLIENT = 0  # this process, as a peer of its dispatcher


class Question:
    """A cancel that waits for its answer."""

    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer = False


class LocalCluster:
    """Dispatcher, children and I/O thread of one embedded client."""

    def __init__(self, workers: int, queue_max: int | None, later: str) -> None:
        occupy_standard_descriptors()
        self.cluster_id = secrets.token_hex(4)
        self.functions = Functions(has_names=False)
        self.shelf = Shelf()
        self.by_value = False  # children find what this process finds
        self.ids = Ids(CLIENT)
        self.workers = workers
        self.forked = False
        self._history = History(self.cluster_id)
        self._dispatcher = Dispatcher(slots=workers, queue_max=queue_max, history=self._history)
        self._inbox: deque[Task] = deque()
        self._messages: deque[Cancel | Gone] = deque()
        self._asks = Asks(self.functions)
        self._callbacks = Callbacks()
        self._turning = threading.Lock()  # held for a turn, by whoever takes it
        self._deadline: float | None = None
        self._closing = self._killing = self._closed = False
        self._loop = Loop()
        self._children = Children(self._loop, self.functions, workers, cpus(), self.cluster_id, later)
        self._children.staff((), monotonic())
        self._thread = threading.Thread(target=self._run, name="zmqtasks-io", daemon=True)
        files.begin_keeping()
        self._thread.start()
        _clusters.add(self)

    # ---- any thread ----------------------------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Take `task` in."""
        if self._closing or self.forked:
            self.raise_if_unusable()
        idle = not self._dispatcher.ledger.tasks and not self._inbox
        self._inbox.append(task)
        if self._closed:  # meanwhile: nobody takes it in any more
            self._refuse_inbox()
        if self._loop.asleep:
            if idle and self._turning.acquire(blocking=False):
                try:
                    self._turn()
                finally:
                    self._turning.release()
                if self._deadline is None:
                    return
            self._loop.wake()

    def submit_all(self, tasks: list[Task]) -> None:
        """Take `tasks` in, in one turn."""
        self.raise_if_unusable()
        self._inbox.extend(tasks)
        if self._closed:
            self._refuse_inbox()
        self._loop.wake()

    def close_join(self, id_: int, count: int) -> None:
        """The open join `id_` has `count` members: all were submitted. Does not wait."""
        self._inbox.append(Task(id_, JOIN, Closed(id_, count), root=id_))
        if self._closed:
            self._refuse_inbox()
        self._loop.wake()

    def raise_if_unusable(self) -> None:
        """Say why nothing can be submitted."""
        if self.forked:
            raise ForkedClient(
                "this client belongs to the process that this one was forked from: open one here"
            )
        if self._closing:
            raise ClientClosed("cannot schedule new futures after shutdown: this client is closed")

    def cancel(self, id_: int, *, terminate: bool) -> bool:
        """Ask the dispatcher; it may have to ask a child."""
        question = Question()
        self._messages.append(Cancel(id_, terminate, question))
        if self._closed:
            return False
        self._loop.wake()
        question.done.wait()
        return question.answer

    def cancel_all(self, first: int, count: int) -> None:
        """Cancel what has not started; does not wait."""
        self._messages.append(Cancel(first, terminate=False, token=None, count=max(2, count)))
        self._loop.wake()

    def state(self, id_: int, _within_s: float = 0, /) -> tuple[int, int]:
        """State and attempt; a task in a child's hand is QUEUED until the child's claim has come to it."""
        task = self._dispatcher.ledger.find(id_)
        if task is None and self.accepted(ACCEPTED_S):  # it was on its way in
            task = self._dispatcher.ledger.find(id_)
        if task is None:
            return QUEUED, 0
        return self._children.state(task, id_), task.attempt

    def inquire(self, what: str, **about: Any) -> Any:
        """What this cluster says of itself; `UnknownTask` where it has no answer."""
        from zmqtasks.nodes.inspection import Inspection  # rarely asked for
        from zmqtasks.nodes.local_site import LocalSite

        if self.forked:
            self.raise_if_unusable()
        self.accepted(None)
        site = LocalSite(lambda: self._dispatcher, self._children, self.functions)
        with self._turning:
            try:
                return Inspection(lambda: self._dispatcher, site, self.cluster_id).answer(
                    what, about, monotonic()
                )
            except LookupError as error:
                raise UnknownTask(str(error.args[0])) from None

    def accepted(self, timeout: float | None) -> bool:
        """Wait until the I/O thread has taken in what was submitted."""
        if self._closed:
            return True
        question = Question()
        self._messages.append(Cancel(-1, terminate=False, token=question))
        self._loop.wake()
        return question.done.wait(timeout)

    def wait(self, park: Callable[[], bool], _on: int) -> bool:
        """Let the calling thread park."""
        if self.forked:
            self.raise_if_unusable()
        return park()

    def watch(self, _future: Any) -> list[Any]:
        """A plain list: nothing hangs on who waits."""
        return []

    def call_back(self, call: Callable[[], object]) -> None:
        """Run a user's callback in a thread of its own: it may block, and may wait for other futures."""
        self._callbacks.put(call)

    def close(self, *, wait: bool, cancel: bool, kill: bool = False) -> None:
        """No more tasks; end when all are settled. `cancel`: those that have not started; `kill`: all of them."""
        if self.forked:
            return
        self._closing = True
        self._messages.append(ids_of(CLIENT))
        if cancel or kill:
            self._messages.append(Cancel(0, terminate=False, token=None, count=1 << 62))
        if kill:
            self._killing = True
        self._loop.wake()
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()

    def leave(self) -> None:
        """Let go of everything: in this process, a forked one, nothing of it is its own."""
        self.forked = True
        if self._closed:
            return
        self._children.leave()
        self._loop.close()

    # ---- the I/O thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        loop = self._loop
        try:
            while not self._is_over():
                loop.asleep = True
                ready = loop.wait(0 if self._inbox or self._messages else self._deadline)
                self._children.relay_output(ready)
                with self._turning:
                    for file in ready:
                        self._hear(self._children.read(file))
                        for child, heard, lost in self._children.ended(file):
                            self._hear(heard)
                            self._asks.forget(child.peer)
                            self._dispatcher.receive(child.peer, lost, monotonic())
                            if session := child.peer % SESSIONS_MAX:
                                self._dispatcher.receive(CLIENT, ids_of(session), monotonic())
                    self._turn()
        finally:
            self._end()

    def _is_over(self) -> bool:
        return self._closing and (
            self._killing or not (self._dispatcher.ledger.pending or self._inbox or self._messages)
        )

    def _hear(self, messages: list[Heard]) -> None:
        for child, message in messages:
            try:
                said = self._said(child, message)
            except Exception:  # noqa: BLE001 - a buffer that never came, an id of another's: no message of ours
                self._children.expel(child)
                continue
            if said is not None:
                self._dispatcher.receive(child.peer, said, monotonic())

    def _said(self, child: ChildLink, message: wire.Arrived) -> Any:
        """What a child has said, in the dispatcher's words; None if it is not for the dispatcher."""
        head = message.head
        said = codec.core_message(message)
        if said is None:
            if type(head) is wire.Hello:
                self._children.is_ready(child, head.pid)
                return Joined()
            if type(head) is wire.Asked:
                return self._asks.submit(child.peer, message)
            if type(head) is wire.CancelAsked:
                return Cancel(head.id, head.terminate, (child.peer, head.id, head.token), head.count)
            if type(head) in (wire.Progress, Yielded):
                self._report(head)
        return said

    def _report(self, head: Any) -> None:
        task = self._dispatcher.ledger.find(head.id)
        face = task.face if task is not None else None
        if type(face) is Asker:
            self._children.tell(face.peer, codec.simple(head))
        elif face is not None:
            face.report(head.id, codec.report(head))

    def _turn(self) -> None:
        now = monotonic()
        dispatcher = self._dispatcher
        if self._inbox:
            inbox, tasks = self._inbox, []
            known: dict[int, Any] = {}
            for _ in range(len(inbox)):
                task = inbox.popleft()
                tasks.append(task)
                if task.needs:
                    for future in task.inputs:
                        if (outcome := future.known()) is not None:
                            known[future.number] = outcome
                    task.inputs = ()
            dispatcher.receive(CLIENT, Submit(tasks, known), now)
        while self._messages:
            dispatcher.receive(CLIENT, self._messages.popleft(), now)
        answers: list[Answer] = []
        look_at_once: float | None = None
        effect: Any  # of the type that is looked up once
        for effect in dispatcher.turn(now):
            kind = type(effect)
            if kind is Settle:
                self._settle(effect)
            elif kind is Send and type(effect.message) is Run:
                self._children.run(effect.peer, effect.message)
            elif kind is Send:
                self._children.tell(effect.peer, codec.simple(effect.message))
            elif kind is Answer:
                answers.append(effect)
            elif kind is End:
                self._children.end(effect)
            elif kind is Look:
                dispatcher.receive(CLIENT, self._children.claimed(effect.peer), now)
                look_at_once = now
            # Records are not kept: these tasks live as long as this process, and no longer.
        for peer, outcomes in self._asks.outcomes().items():
            self._children.tell(peer, codec.settled(outcomes))
        for answer in answers:  # after the outcomes: who is told that a task is cancelled sees that it is
            self._answer(answer)
        if gone := self.shelf.take_gone():
            self._children.forget(gone)
        look_again = self._children.staff(dispatcher.peers.values(), now)
        if self._children.broken and dispatcher.ledger.tasks:
            self._give_up()
        deadlines = (dispatcher.next_deadline(), look_again, look_at_once)
        times = [time for time in deadlines if time is not None]
        self._deadline = min(times) if times else None

    def _settle(self, effect: Settle) -> None:
        state = effect.state
        for task, payload in zip(effect.tasks, effect.payloads, strict=True):
            face = task.face
            task.face = None
            if type(face) is Asker:
                end(task, payload)
                self._asks.settle(face, [task])
            elif face is not None:
                face.settle(task, state, payload)

    def _answer(self, effect: Answer) -> None:
        token = effect.token
        if isinstance(token, Question):
            token.answer = effect.cancelled
            token.done.set()
        elif token is not None:
            peer, id_, number = token
            self._children.tell(peer, codec.simple(wire.CancelAnswer(id_, number, effect.cancelled)))

    def _give_up(self) -> None:
        """No child comes up: whatever is asked of this cluster fails, and says so."""
        tasks = list(self._dispatcher.ledger.tasks.values())
        for task in tasks:
            self._settle(
                Settle(DEAD, [task], ["no worker process comes up: see what they wrote to standard error"])
            )
        queue_max = self._dispatcher.queue_max
        self._dispatcher = Dispatcher(slots=self.workers, queue_max=queue_max, history=self._history)

    def _end(self) -> None:
        """Leave nothing behind."""
        with self._turning:
            self._closing = True
            self._children.close()
            self.shelf.clear()
            for task in list(self._dispatcher.ledger.tasks.values()):
                if task.face is not None and type(task.face) is not Asker:
                    self._settle(Settle(CANCELLED, [task], ["the client was closed before it was done"]))
            while self._messages:
                self._answer(Answer(getattr(self._messages.popleft(), "token", None), cancelled=False))
            self._loop.close()
            self._closed = True
            self._refuse_inbox()
            self._callbacks.close()
        files.end_keeping()

    def _refuse_inbox(self) -> None:
        while self._inbox:
            try:
                task = self._inbox.popleft()
            except IndexError:
                return
            self._settle(Settle(CANCELLED, [task], ["the client was closed before it was accepted"]))


_clusters: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


def _leave_all() -> None:
    for cluster in list(_clusters):
        cluster.leave()


def _close_all() -> None:
    """The interpreter ends: as with the standard library's executors, what was submitted is done first.

    Not where it ends by Ctrl-C.
    """
    interrupted = isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)
    for cluster in list(_clusters):
        try:
            cluster.close(wait=True, cancel=interrupted, kill=interrupted)
        except KeyboardInterrupt:
            cluster.close(wait=True, cancel=True, kill=True)


atexit.register(_close_all)
os.register_at_fork(after_in_child=_leave_all)
