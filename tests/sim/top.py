"""The host of the dispatcher that everything is submitted to: embedded over children, or a broker over nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zmqtasks.core.attempts import known_attempts
from zmqtasks.core.effects import (
    ACCEPTED,
    DELIVERED,
    RELEASED,
    RETRIED,
    SETTLED,
    Answer,
    End,
    Look,
    Record,
    Send,
    Settle,
)
from zmqtasks.core.history import History
from zmqtasks.members import Closed, Gone
from zmqtasks.messages import (
    FAILED,
    NEW,
    SCHEDULED,
    SUCCEEDED,
    Cancel,
    Claimed,
    Joined,
    Lent,
    Lost,
    Submit,
)

from .host import Host
from .lending import LENDER
from .node import NodeHost
from .points import BROKER
from .program import CLIENT, Client
from .story import look
from .truth import Final
from .worlds import Place, Wrong

if TYPE_CHECKING:
    from zmqtasks.messages import Task

    from .system import Sim

IDLE_S = 0.1  # how long a peer may idle beside work that another could give back


class Top(Host):
    """Accepts, settles, answers."""

    def __init__(self, sim: Sim, before: Top | None = None) -> None:
        world = sim.world
        self.history = History()
        machine = sim.core.dispatcher(
            slots=world.slots, queue_max=world.queue_max, silence_s=world.silence_s, history=self.history
        )
        super().__init__(sim, machine, machine, world.slots)
        self.truth = sim.truth
        self.alive = True
        self.nodes_lost = 0
        self._told_before = frozenset(sim.truth.final)  # by another, before this one came
        self._news: list[int] = []  # what has ended in this turn, for the client
        if before is not None:  # what is true is told by all nodes that there ever were
            self.children, self.peers, self.jumped = before.children, before.peers, before.jumped
            self.nodes_lost = before.nodes_lost + 1
        self._refused_now: set[int] = set()
        self._to_refuse: set[int] | None = None
        self._idle_since: float | None = None

    # ---- in

    def receive(self, peer: int, message: Any) -> None:
        """A message has arrived."""
        truth = self.truth
        if not self.alive:
            return
        has_client = isinstance(self.sim.program, Client)  # its broker keeps outcomes for what may still come
        if isinstance(message, Submit):
            message.known = {
                need: truth.final[need].known()
                for task in message.tasks
                for need in task.needs
                if need in truth.final and (has_client or need not in self.sim.flows.quiet)
            }
            if peer == CLIENT:
                message.known = self.sim.lending.lend(message.known)
            for task in message.tasks:
                if task.id not in truth.submitted:
                    truth.submitted.update(range(task.id, task.id + task.count))
        elif isinstance(message, Joined) and self.children[peer].lost:
            return  # the number was given up, and whoever has it is being told
        elif isinstance(message, Cancel) and message.token is None:
            truth.dropped.update(range(message.id, message.id + message.count))
        elif isinstance(message, (Closed, Gone)):
            self.sim.flows.close(message)
        super().receive(peer, message)

    def submit(self, client: int, tasks: list[Task]) -> None:
        """A program submits, and sometimes says it again."""
        if not self.alive:
            return
        self.receive(client, Submit(tasks))
        if self.sim.rng.random() < 0.1:
            self.sim.at(self.sim.rng.random() * 0.02, self.receive, client, Submit(tasks))

    def drop(self, client: int, ids: range) -> None:
        """A program has no use for these any more."""
        if not self.alive:
            return
        self.truth.drop(ids)
        self.receive(client, Cancel(ids[0], False, None, len(ids)))

    # ---- nodes

    def join_node(self, place: Place) -> None:
        """A new node, under a new id."""
        self.peers += 1
        self.children[self.peers] = NodeHost(self.sim, self.peers, place)
        self.receive(self.peers, Joined(place.slots, node=True, lanes=place.lanes))

    def lose_node(self, node: NodeHost, reason: str) -> None:
        """It is seen that a node is gone, or it only seems so; it comes again under another id."""
        if not self.alive:
            return
        self.nodes_lost += 1
        node.is_given_up()
        self.receive(node.peer, Lost(reason))
        self._replace(node)

    def lost_under(self, id_: int) -> int:
        """How many nodes are gone on which it had started, or was just to."""
        nodes = [node for node in self.children.values() if isinstance(node, NodeHost)]
        gone = [node for node in nodes if node.peer not in self.machine.peers]
        return sum(
            id_ in node.announced
            or any(id_ in child.started | child.first | child.next for child in node.children.values())
            for node in gone
        )

    def part_with(self, node: NodeHost) -> None:
        """A node has left, as it said it would: no excuse for starting anything again."""
        if node.lost or not self.alive:
            return
        node.lost = True
        self.receive(node.peer, Lost("it has left"))

    def gave_up(self, child: Any) -> None:
        """The dispatcher takes it for lost: a node has to join anew."""
        if not isinstance(child, NodeHost):
            super().gave_up(child)
            return
        silence_s = self.sim.world.silence_s or 0.0
        spoke = child.alive and max(child.stood_still, child.joined) < self.sim.now - silence_s
        at_end = not (self.truth.unsettled or self.sim.faulty)  # of the world: nobody says anything any more
        if not silence_s or (spoke and not self.sim.world.late and not at_end):
            raise Wrong(f"node {child.peer} was given up, and had not been silent")
        self.truth.given_up += 1
        self.nodes_lost += 1
        child.is_given_up()
        self._replace(child)

    def _replace(self, node: NodeHost) -> None:
        if node.alive:
            node.hear_that_it_is_given_up()
        elif not node.replaced:
            node.replaced = True
            self.sim.at(0.002, self.sim.join_node, node.place)

    # ---- its end

    def stops(self) -> bool:
        """In the midst of a turn: all that it knew is lost."""
        if self.sim.world.nodes and self.sim.points.stops(BROKER):
            self.die()
        return not self.alive

    def tell(self) -> bool:
        """Its client, how things have ended."""
        news, self._news = self._news, []
        program = self.sim.program
        if isinstance(program, Client) and (its := [id_ for id_ in news if program.has_submitted(id_)]):
            if self.stops():
                return False
            program.tell(its)
        return True

    def die(self) -> None:
        """Its nodes end what they run for it, and come to the next one."""
        self.sim.note("  the broker dies")
        self.alive = False
        self.truth.begin_anew()
        self.sim.flows.released.clear()
        for node in list(self.children.values()):
            if isinstance(node, NodeHost) and not node.lost:
                node.is_given_up()
                self._replace(node)
        self.sim.at(self.sim.rng.choice((0.0, 0.005, 0.05)), self.sim.start_broker)

    # ---- a turn

    def before(self, arrived: list[tuple[int, Any]], now: float) -> None:
        """What is to be refused, and when what is new may start."""
        self._refused_now = set()
        self._to_refuse = self._too_many(arrived)
        for _, message in arrived:
            for task in message.tasks if type(message) is Submit else ():
                if task.state == NEW:
                    for id_ in range(task.id, task.id + task.count):
                        self.truth.eta[id_] = now + task.options.countdown
                        self.sim.policies.born[id_] = now

    def perform(self, effect: Any) -> None:
        """What it wants of the journal, of programs and of workers."""
        truth = self.truth
        match effect:
            case Record(kind, tasks, state, _):
                ids = [id_ for task in tasks for id_ in range(task.id, task.id + task.count)]
                if kind == SETTLED:
                    self._refused_now.update(id_ for id_ in ids if id_ not in truth.journal)
                    truth.refused |= self._refused_now
                try:
                    truth.journal.record([effect])
                except ValueError as error:
                    raise Wrong(str(error)) from error
                if kind == ACCEPTED:
                    truth.unsettled.update(ids)
                elif kind == DELIVERED and (
                    bad := [
                        task.id for task in tasks if not self.sim.policies.delivered(task.id, task.deliveries)
                    ]
                ):
                    raise Wrong(f"deliveries of {bad} are not what they were")
                elif kind == RELEASED:
                    self.sim.flows.release(ids)
                elif kind == RETRIED:
                    for id_ in ids:
                        self.sim.policies.retry(id_)
            case Settle(state, tasks, payloads):
                for task, payload in zip(tasks, payloads, strict=True):
                    listed = state == SUCCEEDED and task.span
                    if listed and len(values := self.sim.flows.opened(payload)) != task.count:
                        raise Wrong(f"span {task.id} has {task.count} items and {len(values)} values")
                    for item in range(task.count):
                        final = Final(
                            state, values if listed else payload, item if listed else -1, task.deliveries
                        )
                        truth.settled(task.id + item, final)
                    self._news += range(task.id, task.id + task.count)
            case Answer(token, cancelled):
                if token is None:
                    raise Wrong("nobody asked for that answer")
                truth.answered(token, cancelled=cancelled)
            case Look(peer):
                child = self.children[peer]
                entry, claim = child.current, Claimed(peer)
                if entry is not None and entry.spec.options.time_limit:
                    claim = Claimed(peer, entry.ordinal, child.claimed_item, child.began_clock)
                self.receive(0, claim)
            case Send(peer, message) if peer == LENDER:
                self.sim.lending.hear(message)
            case End(peer, ordinal, item) if ordinal >= 0:
                child = self.children[peer]
                entry = child.current
                if entry is not None and (entry.ordinal, child.claimed_item) == (ordinal, item):
                    self.sim.policies.over.add(entry.id + child.item)
                delay = self.sim.world.control_s * self.sim.more.random()
                self.sim.at(delay, self.sim.policies.end, child, ordinal, item)
            case _:
                super().perform(effect)

    def after(self, arrived: list[tuple[int, Any]], effects: list[Any]) -> None:
        """Journal, ledger and truth agree, and nobody idles."""
        machine, truth, world = self.machine, self.truth, self.sim.world
        if truth.journal.unsettled().keys() != truth.unsettled:
            raise Wrong("the journal's replay is not what is unsettled")
        held = {id_ for task in machine.ledger.tasks.values() for id_ in range(task.id, task.id + task.count)}
        if held != truth.unsettled:
            raise Wrong(f"unsettled and forgotten, or the other way round: {held ^ truth.unsettled}")
        tasks = machine.ledger.tasks.values()
        stood = self.sim.flows.stand_ins
        known = [] if world.nodes else [task for task in tasks if task.id not in stood]
        if bad := [task.id for task in known if task.attempt != known_attempts(task)]:
            raise Wrong(f"the attempts of {bad} are not those that have begun")
        if machine.ledger.pending != len(held):
            raise Wrong("pending does not say what is unsettled")
        if over := [
            peer.id for peer in machine.peers.values() if peer.waiting and peer.waits_on in truth.final
        ]:
            raise Wrong(f"peers {over} are taken for waiting, and what they wait for is settled")
        if world.silence_s is not None and truth.unsettled and not world.jumps:
            for id_ in machine.peers:
                silent = self.sim.now - self.children[id_].said
                if silent > 1.5 * world.silence_s + 0.01:
                    raise Wrong(f"peer {id_} has said nothing for {silent:.3f} s, and is not given up")
        self.sim.policies.look_at_hands()
        self.sim.flows.look()
        self.sim.lending.look()
        if self._to_refuse is not None and self._to_refuse != self._refused_now:
            raise Wrong(f"refused {self._refused_now}, to be refused {self._to_refuse}")

    def look_at_deadline(self, deadline: float | None, now: float) -> None:
        """What is scheduled is not forgotten."""
        eta, spec_of = self.truth.eta, self.sim.work.spec_of
        for task in self.machine.ledger.tasks.values():
            self.sim.policies.look_at(task, deadline, now)
            # with needs it is later than this, when they are there
            if (
                task.state == SCHEDULED
                and not spec_of[task.id][0].needs
                and not (deadline and now < deadline <= eta[task.id])
            ):
                raise Wrong(f"task {task.id} is due at {eta[task.id]}, the next deadline is {deadline}")

    def turn(self) -> None:
        """And nobody idles."""
        if not self.alive:
            return
        super().turn()
        if not self.sim.world.nodes:
            self._idle(progress=False)

    def has_started(self) -> None:
        """A task has, here."""
        self._idle(progress=True)

    def _too_many(self, arrived: list[tuple[int, Any]]) -> set[int] | None:
        """The ids that are too many for the queue; None where other messages make that hard to say."""
        limit, here = self.sim.world.queue_max, set(self.truth.unsettled)
        pending, refused = len(here), set[int]()
        if limit is None or self.sim.has_flows or not all(type(message) is Submit for _, message in arrived):
            return None
        for _, message in arrived:
            for task in message.tasks:
                if task.state != NEW or task.id in here:
                    continue
                if pending + task.count > limit:
                    refused.update(range(task.id, task.id + task.count))
                    continue
                known = {
                    need: SUCCEEDED if type(each) is Lent else each[0] for need, each in message.known.items()
                }
                if all(
                    known.get(need, SUCCEEDED if need in here else FAILED) == SUCCEEDED for need in task.needs
                ):
                    pending += task.count
                    here.update(range(task.id, task.id + task.count))
        return refused

    def _idle(self, *, progress: bool) -> None:
        """No peer idles for long beside work that another holds and has not started."""
        machine, world, now = self.machine, self.sim.world, self.sim.now
        if (
            self._idle_since is not None
            and now - self._idle_since > IDLE_S
            and not (world.stops or world.late or world.overtaking)
        ):
            raise Wrong(f"a peer has been idle beside recallable work for {now - self._idle_since:.3f} s")
        if progress:
            self._idle_since = None
            return
        live = [child for child in self.children.values() if not child.lost and child.peer in machine.peers]
        at_work = sum(1 for peer in machine.peers.values() if peer.hand and not peer.waiting)
        idle = world.slots is None or at_work < world.slots
        idle = idle and any(child.current is None and not machine.peers[child.peer].hand for child in live)
        if not idle or not any(child.hand and child.current is not None for child in live):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now

    # ---- the end

    def verify(self) -> None:
        """Nothing is left."""
        machine = self.machine
        if self.truth.unsettled:
            ids = sorted(self.truth.unsettled)
            states = {id_: getattr(machine.ledger.find(id_), "state", None) for id_ in ids}
            raise Wrong(f"not settled: {states}")
        ledger = machine.ledger
        hands = any(peer.hand or peer.questions for peer in machine.peers.values())
        if ledger.pending or ledger.ready.size or ledger.addresses or hands:
            raise Wrong("something is left")
        for node in self.children.values():
            if isinstance(node, NodeHost) and node.alive and not node.lost:
                node.verify()
        known = {id_: final for id_, final in self.truth.final.items() if id_ not in self._told_before}
        look(
            self.history,
            {id_: final.state for id_, final in known.items() if id_ not in self.truth.gone},
            nodes=bool(self.sim.world.nodes),
        )
