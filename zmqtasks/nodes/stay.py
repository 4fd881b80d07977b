"""A worker's time with one broker, from its welcome to the loss of the connection."""

from __future__ import annotations

from itertools import count
from typing import Any

from zmqtasks import codec, wire
from zmqtasks.blobs import FILE_BYTES_MIN, Buffer, Packed, hold
from zmqtasks.catalog import Catalog, Function
from zmqtasks.core.loans import Lender
from zmqtasks.core.node import ABOVE
from zmqtasks.loans import LAPSED, Lacks, Told, is_light
from zmqtasks.members import Gathered
from zmqtasks.messages import JOIN, QUEUED, UPSTREAM_FAILED, Cancel, Done, Recall, Task
from zmqtasks.nodes.asks import Asks
from zmqtasks.nodes.crew import SESSIONS_MAX, ChildLink
from zmqtasks.nodes.dealer import Dealer
from zmqtasks.nodes.household import Household, Plan
from zmqtasks.nodes.ids import ids_of, session_of
from zmqtasks.nodes.loop import Loop
from zmqtasks.visit import Inquiry, Report, Taken, Welcome, Yielded


class Stay(Household):
    """One welcome's worth of work."""

    def __init__(self, welcome: Welcome, loop: Loop, dealer: Dealer, plan: Plan, now: float) -> None:
        super().__init__(loop, dealer, plan, welcome.cluster_id, welcome.first, welcome.beat_s, now)
        self._mailbox = dealer.mailbox
        self._first = welcome.first
        self._asked = Catalog()  # functions of what tasks here submit, by numbers of this node
        self._told = {JOIN}  # those of them that the broker has
        self._known: set[bytes] = set()  # hashes of the buffers that it has
        self._asks = Asks(self._asked)
        self._lender = Lender()  # what tasks here know of what theirs need
        self._loans = count(1)  # numbers of submits with such
        self._tokens = count()
        self._questions: dict[
            int, tuple[int, int]
        ] = {}  # children's, by the token that went up: child, its token

    def tell_above(self, message: Any) -> None:
        """To the broker."""
        self._dealer.send(codec.done(message, afar=True) if type(message) is Done else codec.simple(message))

    # ---- children ------------------------------------------------------------------------------------------------

    def child_asks(self, child: ChildLink, message: wire.Arrived) -> None:
        """What a task submits, cancels or reports is the broker's to deal with."""
        head = message.head
        if type(head) is wire.Asked:
            self._submit(child.peer, message)
        elif type(head) is wire.CancelAsked:
            token = None
            if head.token is not None:
                token = next(self._tokens)
                self._questions[token] = child.peer, head.token
            self._dealer.send(codec.simple(wire.CancelAsked(head.id, head.terminate, token, head.count)))
        elif type(head) in (wire.Progress, Yielded):
            self._dealer.send(codec.simple(head))

    def child_lost(self, peer: int) -> None:
        """What it has asked for goes on, unheard."""
        self._asks.forget(peer)
        self._dealer.send(codec.simple(ids_of(self._first + peer % SESSIONS_MAX)))

    def _submit(self, peer: int, message: wire.Arrived) -> None:
        """A task submits: that is the broker's to deal."""
        submit = self._asks.submit(peer, message)
        if not self.node.runs_at(peer, submit.instead.values()):
            return
        new = {task.fn for task in submit.tasks} - self._told
        self._told |= new
        functions: wire.Functions = [self._asked.by_number[number] for number in new]
        self.node.submitted(task.id for task in submit.tasks if task.face is not None)
        known, lent = self._sort(peer, submit.known)
        tasks, instead = submit.tasks, submit.instead
        asked = codec.asked(tasks, known, functions, self._known, afar=True, instead=instead, lent=lent)
        self._dealer.send(asked)

    def _sort(self, peer: int, outcomes: dict[int, Any]) -> tuple[dict[int, Any], dict[int, Any]]:
        """What goes along with a submit of that child, and what is lent."""
        own = self._first + peer % SESSIONS_MAX
        lent = {id_: each for id_, each in outcomes.items() if session_of(id_) == own and not is_light(each)}
        if lent:
            self._lender.lend(next(self._loans), lent)
        return {id_: each for id_, each in outcomes.items() if id_ not in lent}, lent

    # ---- the broker ----------------------------------------------------------------------------------------------

    def hear(self, message: wire.Arrived, now: float) -> None:
        """What the broker says."""
        head = message.head
        kind = type(head)
        if kind is wire.Tasks:
            for blob in head.blobs:
                self._keep(message, blob)
            for number, name, data in head.functions:
                self.given.by_number[number] = Function(number, name, data)
            run = codec.run_tasks(message)
            for task in run.tasks:
                task.payload = _here(task.payload)
                for value in task.inputs:
                    _here(value.payload)
            self.node.receive(ABOVE, run, now)
        elif kind is wire.Settled:
            for blob in head.blobs:
                self._keep(message, blob)
            self._settled(message)
        elif kind is Lacks:
            known = {id_: self._lender.find(id_) or (UPSTREAM_FAILED, LAPSED) for id_ in head.ids}
            self._dealer.send(codec.told(Told(known), set(self._known)))
        elif kind is Taken:
            self._lender.take_off(head.count)
        elif kind is wire.CancelAsked:
            self.node.receive(ABOVE, Cancel(head.id, head.terminate, head.token, head.count), now)
        elif kind is wire.CancelAnswer:
            peer, token = self._questions.pop(head.token)
            self.children.tell(peer, codec.simple(wire.CancelAnswer(head.id, token, head.cancelled)))
        elif kind is wire.Signal and head.name == "recall":
            self.node.receive(ABOVE, Recall(), now)
        elif kind is Inquiry:
            found = self.node.machine.ledger.find(head.about["id"])
            state = QUEUED if found is None else self.children.state(found, head.about["id"])
            self._dealer.send(codec.simple(Report(head.token, state)))
        elif kind in (wire.Progress, Yielded):
            if (child := self._child_of(head.id)) is not None:
                self.children.tell(child.peer, codec.simple(head))
        elif kind is wire.Forget:
            self._mailbox.drop(b"", head.digests)
            self.children.forget(set(head.digests))

    def _keep(self, message: wire.Arrived, blob: wire.Blob) -> None:
        buffer = message.buffer(blob.buffer, blob.digest)
        here = hold(memoryview(buffer.memory))
        here.digest = blob.digest
        self._mailbox.keep(b"", blob.digest, here)

    def _settled(self, message: wire.Arrived) -> None:
        """Outcomes of what tasks here have submitted, to those that wait for them."""
        by_child: dict[int, list[Task]] = {}
        ids: list[int] = []
        for id_, items, state, attempt, payload in codec.settled_outcomes(message):
            ids.append(id_)
            if (child := self._child_of(id_)) is not None:
                task = Task(id_, 0, _here(payload), count=items, span=items > 1, state=state, attempt=attempt)
                by_child.setdefault(child.peer, []).append(task)
        for peer, outcomes in by_child.items():
            self.children.tell(peer, codec.settled(outcomes))
        self.node.settled(ids)

    def _child_of(self, id_: int) -> ChildLink | None:
        """Whose task has submitted `id_`, if it is still about."""
        place = session_of(id_) - self._first
        for peer, child in self.children.by_peer.items():
            if peer % SESSIONS_MAX == place:
                return child
        return None


def _here(payload: Any) -> Any:
    """`payload` with its large buffers in shared memory: they are copied once, and not again for each child."""
    if type(payload) is Packed:
        payload.buffers = [_shared(buffer) for buffer in payload.buffers]
    elif type(payload) is Gathered:
        for value in payload.values:
            _here(value.payload)
    return payload


def _shared(buffer: Buffer) -> Buffer:
    if buffer.file >= 0 or buffer.digest or buffer.nbytes < FILE_BYTES_MIN:
        return buffer
    return hold(memoryview(buffer.memory))
