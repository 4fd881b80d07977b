"""A client's line to its broker: the thread that owns the socket, and what is on its way in either direction.

A message with tasks is kept until the broker says that it has taken it in; if the connection is lost meanwhile, it is
sent again under the same ids, and the broker knows what it has. A broker that is not the one of before has lost what
was submitted: those futures fail, and say so.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from zmqtasks import codec, wire
from zmqtasks.blobs import Shelf
from zmqtasks.catalog import Catalog
from zmqtasks.errors import BrokerLost, ClientClosed, UnknownTask, ZmqTasksError
from zmqtasks.keys import Key
from zmqtasks.loans import LAPSED, Lacks, Told
from zmqtasks.messages import AWAY, CANCELLED, GONE, JOIN, UPSTREAM_FAILED, Loss, Task
from zmqtasks.nodes.dealer import Dealer
from zmqtasks.nodes.faces import Faces
from zmqtasks.nodes.ids import Ids, ids_of, session_of
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.outgoing import Outgoing
from zmqtasks.nodes.questions import Question, Questions
from zmqtasks.visit import Enter, Got, Refused, Taken, Welcome, Yielded
from zmqtasks.visit import Report as Answer

RETRY_S = 0.2  # between two tries to reach a broker
CONFIRM_S = 0.005  # between two words on what has come


class Line:
    """Runs until it is closed and all is settled, or until it is stopped, or until the broker will not have it.

    `about`: who this client is. `confirms`: the broker may forget outcomes that have arrived here. `at_end` is called
    when everything is settled.
    """

    def __init__(
        self,
        address: str,
        key: Key | None,
        about: Enter,
        functions: Catalog,
        shelf: Shelf,
        *,
        at_end: Callable[[], None],
        confirms: bool,
    ) -> None:
        self.address = address
        self.cluster_id = ""
        self.ids = Ids(0)
        self._ids: dict[int, Ids] = {}  # by session: that of another broker may have the number of one before
        self.session = 0  # number of this client at the broker
        self.workers = 1
        self.error: ZmqTasksError | None = None  # why the broker will not have this client
        self.welcomed = threading.Event()  # or ended
        self.is_in = False  # the broker knows this connection
        self.closing = self.closed = False  # it takes nothing more; it has ended
        self.faces = Faces()
        self.outgoing = Outgoing()
        self.questions = Questions()
        self._about = about
        self._functions = functions
        self._shelf = shelf
        self._confirms = confirms
        self._confirmed_at = 0.0
        self._confirm_at: float | None = None  # when it is to say what has come: many messages with one word
        self._at_end = at_end
        self._stopping = self._cancelling = False
        self._has_ended = False  # and the broker was told: no more tasks come
        self._words: deque[Any] = deque()  # other messages that are to be sent
        self._told = {JOIN}  # numbers of the functions that the broker has
        self._known: set[bytes] = set()  # hashes of the buffers that it has
        self._loop = Loop()
        self._dealer = Dealer(self._loop, address, key)
        self.thread = threading.Thread(target=self._run, name="zmqtasks-io", daemon=True)
        self.thread.start()

    # ---- any thread ----------------------------------------------------------------------------------------------

    def put(self, task: Task) -> None:
        """Take `task` in."""
        self.outgoing.inbox.append(task)
        if self.closed:  # meanwhile: nobody takes it in any more
            self._lose_inbox(self._reason)
        if self._loop.asleep:
            self._loop.wake()

    def put_all(self, tasks: list[Task]) -> None:
        """Take `tasks` in."""
        self.outgoing.inbox.extend(tasks)
        if self.closed:
            self._lose_inbox(self._reason)
        self._loop.wake()

    def say(self, head: Any) -> None:
        """Another message, without payloads."""
        self._words.append(head)
        self._loop.wake()

    def ask(self, question: Question) -> None:
        """Its word is said once more after each time the connection was lost, until it is answered."""
        self.questions.put(question)
        self.say(question)
        if self.closed:
            self.questions.fail(ClientClosed("this client is closed"))

    def close(self, *, cancel: bool) -> None:
        """No more tasks; it ends when all are settled. `cancel`: what has not started is cancelled."""
        self.closing = True
        self._cancelling = cancel
        self.outgoing.notify()
        self._loop.wake()

    def stop(self, within_s: float) -> None:
        """Hand over what was submitted, in so much time at most, and end."""
        self.closing = True
        self._loop.wake()
        outgoing = self.outgoing
        outgoing.wait(
            lambda: self.closed or (outgoing.is_empty and not (self._words or self._cancelling)), within_s
        )
        self._stopping = True
        self._loop.wake()
        if threading.current_thread() is not self.thread:
            self.thread.join()

    # ---- the I/O thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        loop, dealer, outgoing = self._loop, self._dealer, self.outgoing
        retry_at: float | None = 0.0
        try:
            while not self._is_over():
                if retry_at is not None and monotonic() >= retry_at:
                    retry_at = None
                    self.is_in = False
                    dealer.connect()
                loop.asleep = True
                work = self.is_in and (self._words or (outgoing.inbox and outgoing.has_room))
                times = [
                    time for time in (retry_at, self._confirm_at if self.is_in else None) if time is not None
                ]
                loop.wait(0.0 if work or dealer.has_mail() or self._is_over() else min(times, default=None))
                news = dealer.look()
                if news == "up":
                    dealer.send(codec.simple(self._about))
                elif news == "down":  # and not by itself up again: a connection is one `Enter`
                    self.is_in = False
                    retry_at = monotonic() + RETRY_S
                    dealer.disconnect()
                if dealer.refused:
                    self.error = BrokerLost(f"{self.address}: {dealer.refused}")
                while dealer.has_mail() and (mail := dealer.mailbox.receive()) is not None:
                    if not self._hear(mail.message):
                        self.is_in = False
                        retry_at = monotonic() + RETRY_S
                        dealer.disconnect()
                        break
                mail = None  # what it brought is not kept until the next comes
                if self._cancelling:
                    self._cancel_rest()
                if self._confirm_at is not None and self.is_in and (now := monotonic()) >= self._confirm_at:
                    self._confirm_at, self._confirmed_at = None, now
                    dealer.send(codec.simple(Got(self._about.got)))
                if self.is_in:
                    self._send()
        except Exception as error:
            self.error = ZmqTasksError(f"the line to the broker has broken down: {error!r}")
            raise
        finally:
            self._end()

    def _is_over(self) -> bool:
        if self._stopping or self.error is not None:
            return True
        return self.closing and not (self.faces or self.outgoing.inbox or (self._words and self.is_in))

    def _cancel_rest(self) -> None:
        """Whatever has not started."""
        self._lose_inbox("cancelled before it started")
        for first, items in self.faces.ranges():
            self._words.append(wire.CancelAsked(first, terminate=False, token=None, count=max(2, items)))
        self._cancelling = False
        self.outgoing.notify()

    def _send(self) -> None:
        outgoing = self.outgoing
        if gone := self._shelf.take_gone():
            self._known -= gone
            self._dealer.send(codec.simple(wire.Forget(list(gone))))
        while outgoing.inbox and outgoing.has_room:
            tasks = outgoing.batch()
            self._send_tasks(tasks, more=outgoing.cuts_a_workflow)
        if self._words:
            while self._words:
                word = self._words.popleft()
                if not isinstance(word, Question):
                    self._dealer.send(codec.simple(word))
                elif self.questions.has(word):
                    self._dealer.send(codec.simple(word.word))
            outgoing.notify()
        if self.closing and not (self._has_ended or outgoing.inbox or outgoing.lender):
            self._has_ended = True
            self._dealer.send(codec.simple(ids_of(self.session)))

    def _send_tasks(self, tasks: list[Task], *, more: bool) -> None:
        if session_of(tasks[0].id) != self.session or session_of(tasks[-1].id) != self.session:
            tasks = self._lose_strays(tasks)
        known: dict[int, Any] = {}
        lent: dict[int, Any] = {}
        for task in tasks:
            for future in task.inputs:
                if session_of(future.number) == self.session and not future.is_light():
                    lent[future.number] = future
                elif (outcome := future.known()) is not None:
                    known[future.number] = outcome
            task.inputs = ()
        self.outgoing.lender.lend(self.outgoing.sent, lent)
        new = {task.fn for task in tasks} - self._told
        self._told |= new
        functions: wire.Functions = [self._functions.by_number[number] for number in new]
        self.faces.add(tasks)
        message = codec.asked(tasks, known, functions, self._known, afar=True, more=more, lent=lent)
        self.outgoing.add(message)
        self._dealer.send(message)

    def _lose_strays(self, tasks: list[Task]) -> list[Task]:
        """Tasks that were numbered for a broker that is gone."""
        for task in tasks:
            if session_of(task.id) != self.session:
                _lose(task, GONE)
        return [task for task in tasks if session_of(task.id) == self.session]

    def _hear(self, message: wire.Arrived | None) -> bool:
        """What the broker says; False if it does not talk to this connection."""
        if message is None:
            self.error = BrokerLost(f"{self.address}: what came is no message of this version of zmqtasks")
            return False
        head = message.head
        kind = type(head)
        if kind is wire.Settled:
            self._settled(message)
        elif kind is Taken:
            self.outgoing.take_off(head.count)
        elif kind is Lacks:
            self._tell(head.ids)
        elif kind is wire.CancelAnswer:
            self._cancel_answered(head)
        elif kind is wire.Fetched:
            self._fetched(message)
        elif kind is Answer:
            if (question := self.questions.take(head.token)) is not None:
                question.settle(head.answer, UnknownTask(head.error) if head.error else None)
        elif kind in (wire.Progress, Yielded):
            self.faces.report(head.id, codec.report(head))
        elif kind is wire.Room:
            self.workers = max(1, head.slots)
        elif kind is wire.Forget:
            self._dealer.mailbox.drop(b"", head.digests)
        elif kind is Welcome:
            self._welcome(head)
        elif kind is Refused:
            if head.final:
                self.error = BrokerLost(f"{self.address}: {head.reason}")
            return False
        return True

    def _welcome(self, head: Welcome) -> None:
        self.workers = max(1, head.slots)
        if head.taken < 0:  # it does not know this session
            loss = AWAY if head.cluster_id == self.cluster_id else GONE
            tasks, questions = list[Task](), list[Question]()
            if self.welcomed.is_set():
                tasks, questions = [*self.faces.take_all(), *self._take_inbox()], self.questions.take_all()
            self.session = head.first
            self.cluster_id = head.cluster_id
            self.ids = self._ids.setdefault(head.first, Ids(head.first))
            self._told = {JOIN}
            self._known.clear()
            self._about.got = 0
            self.outgoing.begin_anew()
            for task in tasks:  # now: whoever hears of the loss may submit and ask again at once
                _lose(task, loss)
            for question in questions:
                question.settle(None, BrokerLost(loss))
        else:
            self.outgoing.arrived(head.taken)
            # What names a function or a buffer counts on the messages before it: they are sent in their order again.
            for message in self.outgoing.untaken:
                self._dealer.send(message)
            self._has_ended = False
            for question in self.questions.unanswered():
                self._dealer.send(codec.simple(question.word))
        self.is_in = True
        self.welcomed.set()

    def _tell(self, ids: list[int]) -> None:
        """What the broker has not kept. Not sent again if this connection is lost: the broker asks again."""
        lent = {id_: self.outgoing.lender.find(id_) for id_ in ids}
        known = {
            id_: (UPSTREAM_FAILED, LAPSED) if future is None else future.known()
            for id_, future in lent.items()
        }
        self._dealer.send(codec.told(Told(known), set(self._known)))

    def _settled(self, message: wire.Arrived) -> None:
        self._keep(message)
        faces = self.faces
        for outcome in codec.settled_outcomes(message):
            faces.settle(*outcome)
            if self.questions.held:
                self.questions.outcome(*outcome[:2], cancelled=outcome[2] == CANCELLED)
        if message.head.taken >= 0:
            self.outgoing.take_off(message.head.taken)
        self._about.got += 1
        if self._confirms and self._confirm_at is None:
            self._confirm_at = self._confirmed_at + CONFIRM_S

    def _keep(self, message: wire.Arrived) -> None:
        for blob in message.head.blobs:
            self._dealer.mailbox.keep(b"", blob.digest, message.buffer(blob.buffer, blob.digest))

    def _cancel_answered(self, head: wire.CancelAnswer) -> None:
        question = self.questions.take(head.token)
        if question is None:
            return
        if head.cancelled and self.faces.has(head.id):
            self.questions.hold(head.id, question)
        else:
            question.settle(head.cancelled)

    def _fetched(self, message: wire.Arrived) -> None:
        head = message.head
        self._keep(message)
        question = self.questions.take(head.token)
        if question is None:
            return
        if head.state < 0:
            question.settle(
                None, UnknownTask("the broker knows no such task, or keeps its outcome no longer")
            )
        else:
            payload = message.outcome(head.state, head.payload) if head.state else None
            question.settle((head.state, head.attempt, payload, head.index))

    # ---- its end -------------------------------------------------------------------------------------------------

    @property
    def _reason(self) -> str:
        """What becomes of tasks that are not settled when it ends."""
        return Loss(self.error) if self.error is not None else "the client was closed before it was done"

    def _take_inbox(self) -> list[Task]:
        tasks = []
        with suppress(IndexError):
            while True:
                tasks.append(self.outgoing.inbox.popleft())
        return tasks

    def _lose_inbox(self, reason: str) -> None:
        for task in self._take_inbox():
            _lose(task, reason)

    def _lose_all(self, reason: str) -> None:
        """Nothing more will be heard of what was submitted."""
        for task in self.faces.take_all():
            task.face.settle(task, CANCELLED, reason)
        self._lose_inbox(reason)

    def _end(self) -> None:
        self.closing = True
        if self.is_in:
            if self._confirm_at is not None:
                self._dealer.send(codec.simple(Got(self._about.got)))
            self._dealer.send(codec.simple(wire.Signal("bye")))
        self.is_in = False
        self._dealer.close()
        self._loop.close()
        self.closed = True
        self._lose_all(self._reason)
        self.questions.fail(self.error or ClientClosed("this client is closed"))
        self._at_end()
        self.welcomed.set()
        self.outgoing.notify()


def _lose(task: Task, reason: str) -> None:
    if task.face is not None:
        task.face.settle(task, CANCELLED, reason)
