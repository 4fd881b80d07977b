"""The embedded cluster: a dispatcher in this process, over children of this process.

One I/O thread owns the sockets. Whoever submits appends to a queue and wakes that thread only if it sleeps; where
nothing else is in flight the submitter takes the turn itself, which saves a wake-up of 30 us.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import select
import threading
import weakref
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import Any

from zmqtasks import wire
from zmqtasks.blobs import Shelf
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import Answer, End, Send, Settle
from zmqtasks.core.pool import Pool
from zmqtasks.errors import ClientClosed, ForkedClient
from zmqtasks.functions import Functions
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    FAILED,
    FINAL_FROM,
    LEASED,
    QUEUED,
    Cancel,
    Joined,
    Lost,
    Run,
    Submit,
    Task,
)
from zmqtasks.nodes.asks import Asker, Asks
from zmqtasks.nodes.crew import ChildLink, Crew, describe
from zmqtasks.nodes.ids import Ids
from zmqtasks.nodes.link import Closed, Link

CLIENT = 0  # this process, as a peer of its dispatcher


def cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Question:
    """A cancel that waits for its answer."""

    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer = False


class LocalCluster:
    """Dispatcher, children and I/O thread of one embedded client."""

    def __init__(self, workers: int, queue_max: int | None) -> None:
        self.cluster_id = secrets.token_hex(4)
        self.functions = Functions()
        self.shelf = Shelf()
        self.ids = Ids(CLIENT)
        self.workers = workers
        self._dispatcher = Dispatcher(slots=workers, queue_max=queue_max)
        self._pool = Pool(workers)
        self._inbox: deque[Task] = deque()
        self._messages: deque[tuple[int, Any]] = deque()  # of this process: cancels
        self._children: dict[int, ChildLink] = {}  # by peer
        self._by_file: dict[int, tuple[ChildLink, bool]] = {}  # link by descriptor; True: the data link
        self._asks = Asks(self.functions)
        self._calls: SimpleQueue[Callable[[], None] | None] | None = None
        self._turning = threading.Lock()
        self._asleep = False
        self._deadline: float | None = None
        self._closing = self._killing = self._closed = self.forked = False
        self._poll = select.epoll() if hasattr(select, "epoll") else select.poll()
        self._wake_in, self._wake_out = os.pipe()
        for file in (self._wake_in, self._wake_out):
            os.set_blocking(file, False)
        self._crew = Crew(workers, cpus(), self.cluster_id)
        self._poll.register(self._wake_in, select.POLLIN)
        self._poll.register(self._crew, select.POLLIN)
        self._grow()
        self._thread = threading.Thread(target=self._run, name="zmqtasks-io", daemon=True)
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
        if self._asleep:
            if idle and self._turning.acquire(blocking=False):
                try:
                    self._turn()
                finally:
                    self._turning.release()
                if self._deadline is None:
                    return
            self._wake()

    def submit_all(self, tasks: list[Task]) -> None:
        """Take `tasks` in, in one turn."""
        self.raise_if_unusable()
        self._inbox.extend(tasks)
        if self._closed:
            self._refuse_inbox()
        self._wake()

    def raise_if_unusable(self) -> None:
        """Say why nothing can be submitted."""
        if self.forked:
            raise ForkedClient("this client belongs to the process that this one was forked from: open one here")
        if self._closing:
            raise ClientClosed("cannot schedule new futures after shutdown: this client is closed")

    def cancel(self, id_: int, *, terminate: bool) -> bool:
        """Ask the dispatcher; it may have to ask a child."""
        question = Question()
        self._messages.append((CLIENT, Cancel(id_, terminate, question)))
        self._wake()
        while not question.done.wait(1.0):
            if self._closed:
                return False
        return question.answer

    def cancel_all(self, first: int, count: int) -> None:
        """Cancel what has not started; does not wait."""
        self._messages.append((CLIENT, Cancel(first, terminate=False, token=None, count=max(2, count))))
        self._wake()

    def state(self, id_: int) -> tuple[int, int]:
        """State and attempt; a task in a child's hand is QUEUED until the child's claim has come to it."""
        task = self._dispatcher.ledger.find(id_)
        if task is None:
            return QUEUED, 0
        child = self._children.get(task.peer)
        if task.state != LEASED or child is None:
            return task.state if task.state < LEASED else QUEUED, task.attempt
        ordinal, item = child.claim
        begun = ordinal > task.ordinal or (ordinal == task.ordinal and item >= task.offset + id_ - task.id)
        return LEASED if begun or not task.span and ordinal == task.ordinal else QUEUED, task.attempt

    def accepted(self, timeout: float | None) -> bool:
        """Wait until the I/O thread has taken in what was submitted."""
        question = Question()
        self._messages.append((CLIENT, Cancel(-1, terminate=False, token=question)))
        self._wake()
        return question.done.wait(timeout)

    def wait(self, park: Callable[[], bool]) -> bool:
        """Let the calling thread park."""
        if self.forked:
            self.raise_if_unusable()
        return park()

    def watch(self, _future: Any) -> list[Any]:
        """A plain list: nothing hangs on who waits."""
        return []

    def call_back(self, call: Callable[[], None]) -> None:
        """Run a user's callback in a thread of its own: it may block, and may wait for other futures."""
        if self._calls is None:
            self._calls = SimpleQueue()
            threading.Thread(target=_call, args=(self._calls,), name="zmqtasks-callbacks", daemon=True).start()
        self._calls.put(call)

    def close(self, *, wait: bool, cancel: bool, kill: bool = False) -> None:
        """No more tasks; end when all are settled. `cancel`: those that have not started; `kill`: all of them."""
        if self.forked:
            return
        self._closing = True
        if cancel or kill:
            self._messages.append((CLIENT, Cancel(0, terminate=False, token=None, count=1 << 62)))
        if kill:
            self._killing = True
        self._wake()
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()

    def leave(self) -> None:
        """This is a forked process: nothing here is its own."""
        self.forked = True
        for child in self._children.values():
            child.close()
        self._crew.leave()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _wake(self) -> None:
        self._asleep = False  # one wake-up is enough
        try:
            os.write(self._wake_out, b"!")
        except OSError:
            return  # it is awake, or gone

    # ---- the I/O thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_over():
                self._asleep = True
                timeout = self._timeout()
                events = self._poll.poll(timeout)
                self._asleep = False
                with self._turning:
                    for file, _ in events:
                        self._react(file)
                    self._turn()
        finally:
            self._end()

    def _timeout(self) -> float | None:
        if self._inbox or self._messages:
            return 0
        if self._deadline is None:
            return None
        # poll counts milliseconds, epoll seconds; both round down to the millisecond below
        seconds = max(0.0, self._deadline - monotonic())
        return seconds + 0.0005 if isinstance(self._poll, _EPOLL) else seconds * 1000 + 0.5

    def _is_over(self) -> bool:
        return self._closing and (
            self._killing or not (self._dispatcher.ledger.pending or self._inbox or self._messages)
        )

    def _react(self, file: int) -> None:
        if file == self._wake_in:
            os.read(self._wake_in, 4096)
        elif file == self._crew.fileno():
            self._hear_of_children()
        elif (entry := self._by_file.get(file)) is not None:
            child, is_data = entry
            link = child.data if is_data else child.control
            try:
                link.flush()
                for message in link.read():
                    self._hear(child, message)
            except BlockingIOError:
                return
            except Closed:
                # Its end is known from its parent; it only must not be looked at any more.
                self._poll.unregister(file)
                del self._by_file[file]
            else:
                self._watch_output(link)

    def _hear(self, child: ChildLink, message: wire.Arrived) -> None:
        head = message.head
        heard = wire.core_message(message)
        if heard is not None:
            self._dispatcher.receive(child.peer, heard, monotonic())
        elif type(head) is wire.Hello:
            child.pid = head.pid
            self._pool.joined(child.peer)
            self._dispatcher.receive(child.peer, Joined(), monotonic())
        elif type(head) is wire.Progress:
            self._report(head)
        elif type(head) is wire.Asked:
            submit = self._asks.submit(child.peer, message)
            self._dispatcher.receive(child.peer, submit, monotonic())
        elif type(head) is wire.CancelAsked:
            cancel = Cancel(head.id, head.terminate, (child.peer, head.token), head.count)
            self._dispatcher.receive(child.peer, cancel, monotonic())

    def _report(self, head: wire.Progress) -> None:
        task = self._dispatcher.ledger.find(head.id)
        if task is not None and type(task.face) is not Asker:
            task.face.report(head.id, (head.done, head.total, head.message, head.meta))

    def _hear_of_children(self) -> None:
        try:
            ended = self._crew.events()
        except Closed:
            self._poll.unregister(self._crew)
            ended = self._crew.restart()
            self._poll.register(self._crew, select.POLLIN)
        for child, status in ended:
            for link, is_data in ((child.data, True), (child.control, False)):
                self._drain(child, link)
                file = link.fileno()
                if self._by_file.get(file) == (child, is_data):
                    self._poll.unregister(file)
                    del self._by_file[file]
            ordinal, item = child.claim
            self._pool.left(child.peer)
            self._children.pop(child.peer, None)
            self._asks.forget(child.peer)
            self._dispatcher.receive(child.peer, Lost(describe(status), ordinal, item), monotonic())
            child.close()

    def _drain(self, child: ChildLink, link: Any) -> None:
        """What a child sent before it ended counts."""
        try:
            while True:
                for message in link.read():
                    self._hear(child, message)
        except (BlockingIOError, Closed):
            return

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
            dispatcher.receive(*self._messages.popleft(), now)
        for effect in dispatcher.turn(now):
            kind = type(effect)
            if kind is Settle:
                self._settle(effect)
            elif kind is Send:
                self._send(effect.peer, effect.message)
            elif kind is Answer:
                self._answer(effect)
            elif kind is End and effect.peer in self._children:
                self._crew.kill(self._children[effect.peer])
            # Records are not kept: these tasks live as long as this process, and no longer.
        for peer, message in self._asks.outcomes():
            if peer in self._children:
                self._post(self._children[peer], self._children[peer].control, message)
        if self.shelf.gone:
            self._forget_blobs()
        self._staff(now)
        times = [time for time in (dispatcher.next_deadline(), self._pool.next_deadline()) if time is not None]
        self._deadline = min(times) if times else None

    def _settle(self, effect: Settle) -> None:
        state = effect.state
        for task, payload in zip(effect.tasks, effect.payloads, strict=True):
            face = task.face
            task.face = None
            if type(face) is Asker:
                self._asks.settle(face, task, state, payload)
            else:
                face.settle(task, state, payload)

    def _send(self, peer: int, message: Any) -> None:
        child = self._children.get(peer)
        if child is None:
            return
        if type(message) is not Run:
            self._post(child, child.control, wire.simple(message))
            return
        new = {task.fn for task in message.tasks} - child.functions
        child.functions |= new
        functions = [tuple(self.functions.by_number[number]) for number in new]
        self._post(child, child.data, wire.run(message, child.data.known, functions))

    def _post(self, child: ChildLink, link: Link, message: wire.Message) -> None:
        try:
            if not link.post(message):
                self._watch_output(link)
        except Closed:
            return  # it has ended, and what it had in hand comes back when its parent says so

    def _watch_output(self, link: Link) -> None:
        """Be told when the rest can be written, as long as there is a rest."""
        if link.fileno() in self._by_file:
            self._poll.modify(link, select.POLLIN | (select.POLLOUT if link.pending else 0))

    def _forget_blobs(self) -> None:
        """Buffers that nothing here names any more: the children need not keep them."""
        gone = {self.shelf.gone.popleft() for _ in range(len(self.shelf.gone))}
        for child in self._children.values():
            if known := gone & child.data.known:
                child.data.known -= known
                self._post(child, child.data, wire.simple(wire.Forget(list(known))))

    def _answer(self, effect: Answer) -> None:
        token = effect.token
        if isinstance(token, Question):
            token.answer = effect.cancelled
            token.done.set()
        elif token is not None:
            peer, number = token
            if (child := self._children.get(peer)) is not None:
                self._post(child, child.control, wire.simple(wire.CancelAnswer(number, effect.cancelled)))

    def _staff(self, now: float) -> None:
        """Start the children that are missing, let those go that are too many."""
        pool, peers = self._pool, self._dispatcher.peers
        waiting = sum([peer.waiting for peer in peers.values()])
        if pool.missing(waiting):
            self._grow(waiting)
        elif len(pool.ready) > pool.workers + waiting:
            idle = [peer.id for peer in peers.values() if not peer.hand and not peer.asked]
            for peer in pool.surplus(idle, waiting, now):
                self._crew.kill(self._children[peer])
        if pool.broken and self._dispatcher.ledger.tasks:
            self._give_up()

    def _grow(self, waiting: int = 0) -> None:
        for _ in range(self._pool.missing(waiting)):
            child = self._crew.fork()
            self._pool.started()
            self._children[child.peer] = child
            for link, is_data in ((child.data, True), (child.control, False)):
                self._by_file[link.fileno()] = (child, is_data)
                self._poll.register(link, select.POLLIN)

    def _give_up(self) -> None:
        """No child comes up: whatever is asked of this cluster fails, and says so."""
        tasks = list(self._dispatcher.ledger.tasks.values())
        for task in tasks:
            if task.state < FINAL_FROM and task.face is not None:
                self._settle(Settle(DEAD, [task], ["no worker process comes up: see what they wrote to standard error"]))
        self._dispatcher = Dispatcher(slots=self.workers, queue_max=self._dispatcher.queue_max)

    def _end(self) -> None:
        """Leave nothing behind."""
        with self._turning:
            self._closing = True
            self._crew.close()
            for task in list(self._dispatcher.ledger.tasks.values()):
                if task.face is not None and type(task.face) is not Asker:
                    self._settle(Settle(CANCELLED, [task], ["the client was closed before it was done"]))
            while self._messages:
                _, message = self._messages.popleft()
                if isinstance(message.token, Question):
                    message.token.done.set()
            for child in self._children.values():
                child.close()
            for file in (self._wake_in, self._wake_out):
                os.close(file)
            if isinstance(self._poll, _EPOLL):
                self._poll.close()
            self._closed = True
            self._refuse_inbox()
            if self._calls is not None:
                self._calls.put(None)


    def _refuse_inbox(self) -> None:
        while self._inbox:
            try:
                task = self._inbox.popleft()
            except IndexError:
                return
            self._settle(Settle(CANCELLED, [task], ["the client was closed before it was accepted"]))


_EPOLL = getattr(select, "epoll", ())
_clusters: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


def _call(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    """The thread that runs users' callbacks."""
    while (call := calls.get()) is not None:
        try:
            call()
        except Exception:
            logging.getLogger("zmqtasks").exception("a done callback raised")
        call = None


def _leave_all() -> None:
    for cluster in list(_clusters):
        cluster.leave()


def _close_all() -> None:
    """The interpreter ends: as with the standard library's executors, what was submitted is done first."""
    for cluster in list(_clusters):
        try:
            cluster.close(wait=True, cancel=False)
        except KeyboardInterrupt:
            cluster.close(wait=True, cancel=True, kill=True)


atexit.register(_close_all)
os.register_at_fork(after_in_child=_leave_all)
