"""The host of a `Node`: its children below, a broker above.

A model of the process that it will run in: one link to the broker, each way in its order; it beats; what its tasks
submit goes up, and their outcomes come back the same way. It may be killed, children and all; stand still while its
children go on; be taken for lost and live on, until it is told; and leave of its own will.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zmqtasks.core.effects import Send
from zmqtasks.core.node import RECALL_S
from zmqtasks.messages import (
    DEAD,
    LEASED,
    QUEUED,
    Answered,
    Beat,
    Cancel,
    Deep,
    Done,
    Ends,
    Joined,
    Leaving,
    Lost,
    Recall,
    Returned,
    Run,
    Running,
    Slots,
    Submit,
)

from .child import BEATS, Child
from .host import Host
from .links import Channel
from .points import NODE
from .worlds import LANES, Place, Wrong

if TYPE_CHECKING:
    from .system import Sim

ABOVE = 0


class NodeHost(Host):
    """One life of a node: after it was given up it is another."""

    def __init__(self, sim: Sim, peer: int, place: Place) -> None:
        node = sim.core.node(place.slots)
        super().__init__(sim, node, node.machine, place.slots)
        self.name = f"node {peer}."
        self.peer = peer
        self.broker = sim.top  # the one that knows it
        self.place = place
        self.up, self.down = Channel(sim, sim.world.link_s), Channel(sim, sim.world.link_s)
        self.alive = True
        self.lost = False  # for the broker
        self.replaced = False
        self.leaving = False
        self.gone = False  # it has said its last word
        self.stopped_until = 0.0
        self.joined = self.said = sim.now
        self.stood_still = -1.0
        self.last_start = self.idle_since = sim.now
        self.free_since: float | None = None  # of a slot, beside its queue
        # what the broker's host notes of a peer
        self.recalls = 0
        self.vain_since: float | None = None
        self.estimates: dict[int, float] = {}
        # what must hold
        self.leases: dict[
            tuple[int, int], int
        ] = {}  # ordinal and offset: the id; of all that it has not settled
        self.ordinals = 0
        self.announced: set[int] = set()  # what it has said to be running: before a child has it
        self.asked: list[Any] = []  # tokens of questions
        self.recalled_at: float | None = None
        self.told_slots = place.slots
        self.paces_heard: Counter[int] = Counter()
        self.paces_told: Counter[int] = Counter()
        self.told: set[int] = set()  # what its tasks have submitted and is settled
        for _ in range(place.slots):
            sim.at(sim.rng.random() * 0.005, self.join)
        if sim.world.silence_s is not None:
            self._beat(sim.world.silence_s / BEATS)

    def _act(self, act: Callable[..., None], *args: Any) -> None:
        if not self.alive:
            return
        if self.stopped_until > self.sim.now:
            self.sim.at_time(self.stopped_until, self._act, act, *args)
        else:
            act(*args)

    def _beat(self, every_s: float) -> None:
        if self.sim.truth.unsettled or self.sim.faulty:
            self.sim.at(every_s, self._act, self._beat, every_s)
            self.say(Beat())

    # ---- below

    def receive(self, peer: int, message: Any) -> None:
        """A child says something."""
        self._act(self._receive, peer, message)

    def _receive(self, peer: int, message: Any) -> None:
        if isinstance(message, Submit) and message.instead:
            if self.machine.runs_at(peer, message.instead.values()):
                self.say(message)
            return
        if isinstance(message, Submit):
            self.sim.note(f"{self.name}{peer:4} submits {[task.id for task in message.tasks]}")
            for task in message.tasks:
                ids = range(task.id, task.id + task.count)
                self.machine.submitted(ids)
                self.sim.truth.listeners.update(dict.fromkeys(ids, self.children[peer]))
            self.say(message)
            return
        if isinstance(message, Done):
            for fn, tasks, _ in message.pace:
                self.paces_heard[fn] += tasks
        super().receive(peer, message)

    def join(self) -> None:
        """A new child."""
        if self.alive:
            super().join()
            self.children[self.peers].lost = self.lost

    def lose(self, child: Child, message: Lost) -> None:
        """A child is gone."""
        self._act(super().lose, child, message)

    def outcome(self, child: Child, id_: int, state: int) -> None:
        """What `child` has submitted is settled above."""
        self.down.send(self._act, self._outcome, child, id_, state)

    def _outcome(self, child: Child, id_: int, state: int) -> None:
        self.told.add(id_)
        self.machine.settled([id_])
        self.turn_soon()
        super().outcome(child, id_, state)

    def has_started(self) -> None:
        """A task has, here."""
        self.last_start = self.sim.now

    # ---- above

    def hear(self, message: Any) -> None:
        """The broker says something: it is on its way."""
        if isinstance(message, Run):
            assert message.first == self.ordinals, "the ordinals have a gap"
            self.ordinals += len(message.tasks)
            message = Run(message.first, [self.sim.work.copy(task) for task in message.tasks])
        elif isinstance(message, Recall):
            self.recalls += 1
            if self.recalls > 1 and not self.leaving:
                raise Wrong(f"node {self.peer} is recalled twice")
        self.down.send(self._act, self._arrive, message)

    def _arrive(self, message: Any) -> None:
        if isinstance(message, Run):
            for ordinal, task in enumerate(message.tasks, message.first):
                for item in range(task.count):
                    self.leases[ordinal, task.offset + item] = task.id + item
        elif isinstance(message, Recall):
            self.recalled_at = self.sim.now if self.recalled_at is None else self.recalled_at
        elif isinstance(message, Cancel) and message.token is not None:
            self.asked.append(message.token)
        if self.sim.trace:
            self.sim.note(f"{self.name} above -> {message}"[:200])
        self.machine.receive(ABOVE, message, self.clock())
        self.turn_soon()

    def say(self, message: Any) -> None:
        """To the broker."""
        self.up.send(self.broker.receive, self.peer, message)

    def perform(self, effect: Any) -> None:
        """What goes up is looked at."""
        if not (type(effect) is Send and effect.peer == ABOVE):
            super().perform(effect)
            return
        message = effect.message
        match message:
            case Done(first, payloads, _, parts, pace):
                for index in range(len(payloads)):
                    self._end_lease(first + index, 0)
                for part in parts:
                    self._end_lease(part.ordinal, part.offset, part.items)
                for fn, tasks, _ in pace:
                    self.paces_told[fn] += tasks
            case Ends(ends):
                for end in ends:
                    for id_ in self._end_lease(end.ordinal, end.offset, end.items):
                        if end.state == DEAD:
                            self.sim.truth.look_at_deaths(id_)
            case Returned(rest, _):
                self._look_at_recall()
                self.recalled_at = None
                for ordinal, offset, items in rest:
                    back = self._end_lease(ordinal, offset, items)
                    if self.sim.faulty and self.sim.rng.random() < self.sim.world.crossing:
                        self.sim.at(0.0, self.sim.cancel, self.sim.rng.choice(back), True)
                if self.leaving:
                    self.recalls += 1  # nobody may have asked
            case Answered(_, token, _):
                if token not in self.asked:
                    raise Wrong(f"node {self.peer} answers what nobody asked, or again")
                self.asked.remove(token)
            case Running(leases):
                self.announced.update(self.leases[lease] for lease in leases)
            case Slots(slots):
                self.told_slots = slots
        self.say(message)

    def _end_lease(self, ordinal: int, offset: int, items: int = 1) -> list[int]:
        ids = []
        for place in range(offset, offset + items):
            if (ordinal, place) not in self.leases:
                raise Wrong(f"node {self.peer} tells of {ordinal}, {place}, which it does not have")
            ids.append(self.leases.pop((ordinal, place)))
        return ids

    # ---- a turn

    def turn(self) -> None:
        """When it is not standing still."""
        self._act(self._turn)

    def _turn(self) -> None:
        super().turn()
        if self.alive and self.leaving and self._is_through():
            self._go()
        elif self.leaving and self.machine.idle:  # a child is just looking whether it has something to start
            self.sim.at(1e-3, self.turn_soon)

    def after(self, arrived: list[tuple[int, Any]], effects: list[Any]) -> None:
        """What it has, it has of the broker, and it has told what it knows."""
        held = {
            (task.face, task.offset + item): task.id + item
            for task in self.dispatcher.ledger.tasks.values()
            for item in range(task.count)
        }
        if held != self.leases:
            raise Wrong(f"node {self.peer} has {held}, of {self.leases}")
        if any(type(e) is Send and type(e.message) is Done and e.peer == ABOVE for e in effects) and (
            self.paces_told != self.paces_heard
        ):
            raise Wrong(f"node {self.peer} has heard of {self.paces_heard}, and told of {self.paces_told}")
        waiting = sum(1 for peer in self.dispatcher.peers.values() if peer.waiting)
        if self.told_slots != self.place.slots + waiting:
            raise Wrong(f"node {self.peer} has told of {self.told_slots} slots, {waiting} of it wait")
        if over := [p.id for p in self.dispatcher.peers.values() if p.waiting and p.waits_on in self.told]:
            raise Wrong(f"peers {over} are taken for waiting, and what they wait for is settled")
        self._look_at_recall()
        self._look_below(effects)

    def _look_at_recall(self) -> None:
        if self.recalled_at is None or self.leaving or self.stood_still > self.recalled_at:
            return
        if (late := self.sim.now - self.recalled_at) > RECALL_S + 0.005:
            raise Wrong(f"node {self.peer} does not answer a recall for {late:.3f} s")

    def _look_below(self, effects: list[Any]) -> None:
        sends = [effect for effect in effects if type(effect) is Send]
        runs = any(type(send.message) is Run for send in sends)
        if runs and (self.leaving or self.recalled_at is not None):
            raise Wrong(f"node {self.peer} deals what is wanted elsewhere")
        refused = [self.children[send.peer].waits_on for send in sends if type(send.message) is Deep]
        ended = [send.message.id for send in sends if type(send.message) is Cancel]
        if len(refused) != len(ended):
            raise Wrong(f"node {self.peer} refuses waits for {refused}, and has {ended} cancelled")
        tasks, peers = self.dispatcher.ledger.tasks.values(), self.dispatcher.peers
        if any(task.state not in (QUEUED, LEASED) for task in tasks):
            raise Wrong(f"node {self.peer} waits with something")
        at_work = sum(1 for peer in peers.values() if peer.hand and not peer.waiting)
        free = at_work < self.place.slots and any(peer.open() and not peer.hand for peer in peers.values())
        if not free or not self.dispatcher.ledger.ready.size:
            self.free_since = None
        elif self.free_since is None:
            self.free_since = self.sim.now
        elif self.sim.now - self.free_since > RECALL_S + 0.02 and self.stood_still < self.free_since:
            raise Wrong(f"node {self.peer} has had a free slot beside its queue since {self.free_since}")

    # ---- its end

    def stops(self) -> bool:
        """In the midst of a turn, with all its children."""
        if self.sim.points.stops(NODE):
            self.sim.take_down(self)
        return not self.alive

    def kill(self) -> None:
        """The process, its children with it."""
        self._go_down(lives_on=False)
        self.up.cut = self.sim.rng.random() < 0.5
        if (
            self.lost and not self.replaced
        ):  # it was given up, and had not heard of it: nobody else replaces it
            self.replaced = True
            self.sim.at(0.002, self.sim.join_node, self.place)

    def is_given_up(self) -> None:
        """The broker deals what it had to others: what it does now means nothing."""
        self.lost = True
        for child in self.children.values():
            if not child.excused:
                self.sim.truth.excuse(child)
        self._go_down(lives_on=self.alive)

    def _go_down(self, *, lives_on: bool) -> None:
        self.sim.note(f"  {self.name} {'is taken for lost' if lives_on else 'dies'}")
        self.alive = lives_on
        for child in self.children.values():
            child.go_down(lives_on=lives_on)

    def hear_that_it_is_given_up(self) -> None:
        """It will: its words were of no use. Then it ends its children and joins anew."""
        self.down.send(self._act, self._start_anew)

    def _start_anew(self) -> None:
        self._go_down(lives_on=False)
        if not self.replaced:
            self.replaced = True
            self.sim.join_node(self.place)

    def pause(self, seconds: float) -> None:
        """It stands still, its children do not."""
        self.stopped_until = self.stood_still = self.sim.now + seconds
        self.sim.note(f"  {self.name} stops until {self.stopped_until * 1e3:.3f} ms")

    def leave(self) -> None:
        """It finishes what runs, and goes; another comes in its place."""
        self._act(self._leave)

    def _leave(self) -> None:
        if self.leaving or self.replaced:
            return
        self.sim.note(f"  {self.name} leaves")
        self.leaving = self.replaced = True
        self.say(Leaving())
        self.machine.leave(self.clock())
        self.turn_soon()
        self.sim.at(0.003, self.sim.join_node, self.place)

    def _is_through(self) -> bool:
        return bool(self.machine.idle) and all(child.lost or child.idle for child in self.children.values())

    def _go(self) -> None:
        if not self.gone:
            self.gone = True
            self.sim.note(f"  {self.name} goes")
            self._go_down(lives_on=False)
            self.up.send(self.broker.part_with, self)

    def take_more(self) -> None:
        """There is a new lane that it takes."""
        if self.place.lanes is not None and not self.leaving:
            lanes = self.place.lanes | {self.sim.rng.randrange(LANES)}
            self.place = Place(self.place.slots, lanes)
            self.say(Joined(self.place.slots, node=True, lanes=lanes))

    def verify(self) -> None:
        """Nothing is left."""
        waits = self.dispatcher.waits
        left = self.leases, self.asked, waits.count, waits.elsewhere, self.dispatcher.ledger.tasks
        left += tuple(peer.questions for peer in self.dispatcher.peers.values())
        if any(left):
            raise Wrong(f"in node {self.peer} something is left: {left}")
        if self.told_slots != self.place.slots:
            raise Wrong(f"node {self.peer} ends with {self.told_slots} slots")
        if self.leaving:
            raise Wrong(f"node {self.peer} never gets to leave")
        if self.sim.top.dispatcher.peers[self.peer].lanes != self.place.lanes:
            raise Wrong(f"node {self.peer} takes {self.place.lanes}, and nobody knows")
