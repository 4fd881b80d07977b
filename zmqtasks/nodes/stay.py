"""A worker's time with one broker, from its welcome to the loss of the connection: a node and its children."""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

from zmqtasks import codec, wire
from zmqtasks.blobs import FILE_BYTES_MIN, Buffer, Packed, hold
from zmqtasks.catalog import Catalog, Function
from zmqtasks.core.effects import End, Look, Send
from zmqtasks.core.node import ABOVE, Node
from zmqtasks.messages import QUEUED, Beat, Cancel, Done, Joined, Leaving, Recall, Run, Task
from zmqtasks.nodes.asks import Asks
from zmqtasks.nodes.children import Children, Heard
from zmqtasks.nodes.crew import SESSIONS_MAX, ChildLink
from zmqtasks.nodes.dealer import Dealer
from zmqtasks.nodes.ids import session_of
from zmqtasks.nodes.loop import Loop
from zmqtasks.visit import Inquiry, Report, Welcome

BURST_S = 0.5  # with nothing to do for so long, a worker in burst mode leaves


class Plan(NamedTuple):
    """How a worker is to work."""

    slots: int
    cpus: int
    name: str = ""
    queues: list[str] = []  # noqa: RUF012 - never written
    excluded: list[str] = []  # noqa: RUF012 - likewise
    burst: bool = False  # leave when there is nothing to do
    shutdown_s: float = 30.0  # what a warm stop may take


class Stay:
    """One welcome's worth of work."""

    def __init__(self, welcome: Welcome, loop: Loop, dealer: Dealer, plan: Plan, now: float) -> None:
        self.trouble = ""  # why it cannot go on
        self._dealer = dealer
        self._mailbox = dealer.mailbox
        self._beat_s = welcome.beat_s
        self._beat_at = now + welcome.beat_s
        self._first = welcome.first
        self._node = Node(plan.slots)
        self._given = Catalog()  # the broker's functions, by its numbers
        self._asked = Catalog()  # functions of what tasks here submit, by numbers of this node
        self._told: set[int] = set()  # those of them that the broker has
        self._known: set[bytes] = set()  # hashes of the buffers that it has
        self._asks = Asks(self._asked)
        self._tokens = count()
        self._questions: dict[
            int, tuple[int, int]
        ] = {}  # children's, by the token that went up: child, its token
        self._idle_since: float | None = None
        self._look_again: float | None = None
        self._gives_up = self._gave_up = False  # what runs here is to end, and has ended
        self._children = Children(
            loop, self._given, plan.slots, plan.cpus, welcome.cluster_id, "zmqtasks.context", welcome.first
        )

    # ---- the host's turn -----------------------------------------------------------------------------------------

    def turn(self, now: float) -> float:
        """Decide and tell; when the next turn is due even if nothing comes."""
        children, effect = self._children, None
        looked: float | None = None
        for effect in self._node.turn(now):
            if isinstance(effect, Send) and effect.peer == ABOVE:
                self._tell_broker(effect.message)
            elif isinstance(effect, Send) and type(effect.message) is Run:
                children.run(effect.peer, effect.message)
            elif isinstance(effect, Send):
                children.tell(effect.peer, codec.simple(effect.message))
            elif isinstance(effect, Look):
                self._node.receive(effect.peer, children.claimed(effect.peer), now)
                looked = now
            elif isinstance(effect, End):
                children.end(effect)
        if now >= self._beat_at:
            self._beat_at = now + self._beat_s
            self._dealer.send(codec.simple(Beat()))
        if self._gives_up:
            return now if self._node.idle else self._beat_at
        self._look_again = children.staff(self._node.machine.peers.values(), now)
        if children.broken:
            self.trouble = "no worker process comes up: see what they wrote to standard error"
        times = (self._node.next_deadline(), self._look_again, self._beat_at, looked)
        return min(time for time in times if time is not None)

    def _tell_broker(self, message: Any) -> None:
        self._dealer.send(codec.done(message, afar=True) if type(message) is Done else codec.simple(message))

    def leave(self, now: float) -> None:
        """Finish what runs, give back the rest."""
        self._dealer.send(codec.simple(Leaving()))
        self._node.leave(now)

    def give_up(self, now: float) -> None:
        """End what runs: it goes back with the rest. Called until `is_over`."""
        if not self._gives_up:
            self._gives_up = True
            for peer in list(self._children.by_peer):
                self._children.kill(peer)
        elif not (self._children.by_peer or self._gave_up):
            self._gave_up = True
            self._node.receive(ABOVE, Recall(), now)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done here."""
        return self._node.idle

    def has_nothing_to_do(self, now: float) -> bool:
        """Whether that has been so for a while."""
        if not self._node.idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        return self._idle_since is not None and now - self._idle_since >= BURST_S

    def close(self) -> None:
        """End the children, whatever they run."""
        self._children.close()

    # ---- children ------------------------------------------------------------------------------------------------

    def hear_children(self, ready: list[int], now: float) -> None:
        """What these descriptors bring, as far as they are children's."""
        self._children.relay_output(ready)
        for file in ready:
            self._hear_all(self._children.read(file), now)
            for child, heard, lost in self._children.ended(file):
                self._hear_all(heard, now)
                self._asks.forget(child.peer)
                self._node.receive(child.peer, lost, now)

    def _hear_all(self, messages: list[Heard], now: float) -> None:
        for child, message in messages:
            try:
                self._hear_child(child, message, now)
            except Exception:  # noqa: BLE001 - a buffer that never came, an id of another's: no message of ours
                self._children.expel(child)

    def _hear_child(self, child: ChildLink, message: wire.Arrived, now: float) -> None:
        head = message.head
        said = codec.core_message(message)
        if said is not None:
            self._node.receive(child.peer, said, now)
        elif type(head) is wire.Hello:
            self._children.is_ready(child, head.pid)
            self._node.receive(child.peer, Joined(), now)
        elif type(head) is wire.Asked:
            self._submit(child.peer, message)
        elif type(head) is wire.CancelAsked:
            token = None
            if head.token is not None:
                token = next(self._tokens)
                self._questions[token] = child.peer, head.token
            self._dealer.send(codec.simple(wire.CancelAsked(head.id, head.terminate, token, head.count)))
        elif type(head) is wire.Progress:
            self._dealer.send(codec.simple(head))

    def _submit(self, peer: int, message: wire.Arrived) -> None:
        """A task submits: that is the broker's to deal."""
        submit = self._asks.submit(peer, message)
        new = {task.fn for task in submit.tasks} - self._told
        self._told |= new
        functions: wire.Functions = [self._asked.by_number[number] for number in new]
        self._node.submitted(task.id for task in submit.tasks)
        self._dealer.send(codec.asked(submit.tasks, submit.known, functions, self._known, afar=True))

    # ---- the broker ----------------------------------------------------------------------------------------------

    def hear(self, message: wire.Arrived, now: float) -> None:
        """What the broker says."""
        head = message.head
        kind = type(head)
        if kind is wire.Tasks:
            for blob in head.blobs:
                self._keep(message, blob)
            for number, name, data in head.functions:
                self._given.by_number[number] = Function(number, name, data)
            run = codec.run_tasks(message)
            for task in run.tasks:
                task.payload = _here(task.payload)
                for value in task.inputs:
                    _here(value.payload)
            self._node.receive(ABOVE, run, now)
        elif kind is wire.Settled:
            for blob in head.blobs:
                self._keep(message, blob)
            self._settled(message)
        elif kind is wire.CancelAsked:
            self._node.receive(ABOVE, Cancel(head.id, head.terminate, head.token, head.count), now)
        elif kind is wire.CancelAnswer:
            peer, token = self._questions.pop(head.token)
            self._children.tell(peer, codec.simple(wire.CancelAnswer(head.id, token, head.cancelled)))
        elif kind is wire.Signal and head.name == "recall":
            self._node.receive(ABOVE, Recall(), now)
        elif kind is Inquiry:
            found = self._node.machine.ledger.find(head.about["id"])
            state = QUEUED if found is None else self._children.state(found, head.about["id"])
            self._dealer.send(codec.simple(Report(head.token, state)))
        elif kind is wire.Progress:
            if (child := self._child_of(head.id)) is not None:
                self._children.tell(child.peer, codec.simple(head))
        elif kind is wire.Forget:
            self._mailbox.drop(b"", head.digests)
            self._children.forget(set(head.digests))

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
            self._children.tell(peer, codec.settled(outcomes))
        self._node.settled(ids)

    def _child_of(self, id_: int) -> ChildLink | None:
        """Whose task has submitted `id_`, if it is still about."""
        place = session_of(id_) - self._first
        for peer, child in self._children.by_peer.items():
            if peer % SESSIONS_MAX == place:
                return child
        return None


def _here(payload: Any) -> Any:
    """`payload` with its large buffers in shared memory: they are copied once, and not again for each child."""
    if type(payload) is Packed:
        payload.buffers = [_shared(buffer) for buffer in payload.buffers]
    return payload


def _shared(buffer: Buffer) -> Buffer:
    if buffer.file >= 0 or buffer.digest or buffer.nbytes < FILE_BYTES_MIN:
        return buffer
    return hold(memoryview(buffer.memory))
