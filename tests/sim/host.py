"""The loop around a machine: messages in, a turn soon after, effects out, and a look at what is in hands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zmqtasks.core.effects import Answer, End, Look, Record, Send, Settle
from zmqtasks.core.pace import HAND_BYTES_MAX, HAND_MAX
from zmqtasks.core.peer import size
from zmqtasks.messages import (
    QUEUED,
    Done,
    Joined,
    Lost,
    Recall,
    Returned,
    Run,
    Submit,
    Task,
    Waiting,
)

from .child import Child
from .worlds import Wrong

if TYPE_CHECKING:
    from zmqtasks.core.dispatch import Dispatcher
    from zmqtasks.core.peer import Peer

    from .system import Sim

RANK = {Record: 0, Settle: 1, Send: 2, Answer: 2, Look: 2, End: 2}  # the order of effects


class Host:
    """Hosts `machine`; `dispatcher` is the one that deals to the workers here: of a node, the one within."""

    name = ""

    def __init__(self, sim: Sim, machine: Any, dispatcher: Dispatcher, slots: int | None) -> None:
        self.sim = sim
        self.machine = machine
        self.dispatcher = dispatcher
        self.slots = slots
        self.children: dict[int, Any] = {}
        self.peers = 0
        self.jumped = 0.0
        self.paced: set[int] = set()  # functions whose cost is known
        self._turn_is_due = False
        self._alarm = -1  # the event of the next deadline
        self._in_turn: list[tuple[int, Any]] = []

    def clock(self) -> float:
        """What the machine is told: it may jump ahead."""
        return self.sim.now + self.jumped

    def jump(self, seconds: float) -> None:
        """The clock does."""
        self.jumped += seconds
        self.sim.note(f"  the clock {self.name}jumps to {self.clock():.3f}")
        self.turn_soon()

    # ---- in

    def receive(self, peer: int, message: Any) -> None:
        """A message of a child has arrived."""
        if isinstance(message, Returned):
            self.children[peer].recalls -= 1
            self.children[peer].vain_since = None if message.rest else self.sim.now
        elif isinstance(message, Done):
            self.children[peer].vain_since = None
        elif isinstance(message, Waiting):
            at_work = sum(1 for child in self.children.values() if not child.lost and not child.waiting)
            if self.slots is not None and at_work < self.slots:
                self.sim.at(1e-3, self.join)
        if self.sim.trace:
            said = [short(task) for task in message.tasks] if isinstance(message, Submit) else message
            self.sim.note(f"{self.name}{peer:4} -> {said}")
        self.machine.receive(peer, message, self.clock())
        if peer in self.children:
            self.children[peer].said = self.sim.now
        self._in_turn.append((peer, message))
        self.turn_soon()

    def join(self) -> None:
        """A new child."""
        self.peers += 1
        self.children[self.peers] = Child(self, self.peers)
        self.receive(self.peers, Joined(1))

    def lose(self, child: Child, message: Lost) -> None:
        """A child is gone; a new one comes under a new id."""
        self.sim.truth.excuse(child)
        self.receive(child.peer, message)
        self.sim.at(0.002, self.join)

    def outcome(self, child: Child, id_: int, state: int) -> None:
        """What `child` has submitted is settled."""
        child.control.send(child._act, child.on_outcome, id_, state)

    def has_started(self) -> None:
        """A task has, here."""

    # ---- a turn

    def turn_soon(self) -> None:
        """There is something to decide."""
        if not self._turn_is_due:
            self._turn_is_due = True
            self.sim.at(self.sim.rng.random() * self.sim.world.loop_s, self.turn)

    def _wake_up(self) -> None:
        self._alarm = -1
        self.turn_soon()

    def turn(self) -> None:
        """The machine decides, and everything that must hold then is looked at."""
        self._turn_is_due = False
        machine, now = self.machine, self.clock()
        arrived, self._in_turn = self._in_turn, []
        hands = {id_: bool(peer.hand) for id_, peer in self.dispatcher.peers.items()}
        self.before(arrived, now)
        effects = machine.turn(now)
        ranks = [RANK[type(effect)] for effect in effects]
        if ranks != sorted(ranks):
            raise Wrong("an effect comes before a record that it depends on")
        for peer, message in arrived:
            if isinstance(message, Done) and peer in hands:
                self.paced.update(fn for fn, _, _ in message.pace)
        for effect in effects:
            if self.stops():
                return
            if self.sim.trace:
                self.sim.note(f"        {self.name}{shown(effect)}")
            self.perform(effect)
        if not self.tell():
            return
        machine.check()
        self._look_at_hands(effects, hands)
        self.after(arrived, effects)
        self._set_alarm(now)

    def _set_alarm(self, now: float) -> None:
        deadline = self.machine.next_deadline()
        self.look_at_deadline(deadline, now)
        if self._alarm >= 0:
            self.sim.time.drop(self._alarm)
        self._alarm = -1
        if deadline is not None and (self.sim.faulty or self.sim.truth.unsettled):
            if deadline <= now:
                raise Wrong("the next deadline is past: the host would spin")
            self._alarm = self.sim.at(deadline - now, self._wake_up)

    def stops(self) -> bool:
        """Whether its process is gone before the next effect."""
        return False

    def tell(self) -> bool:
        """What it says when all that its machine wanted is done; False if it is gone before that."""
        return True

    def before(self, arrived: list[tuple[int, Any]], now: float) -> None:
        """What is to be known before the machine decides."""

    def after(self, arrived: list[tuple[int, Any]], effects: list[Any]) -> None:
        """What must hold after it has."""

    def look_at_deadline(self, deadline: float | None, now: float) -> None:
        """Whether it is early enough."""

    # ---- out

    def perform(self, effect: Any) -> None:
        """What the machine wants of its workers."""
        match effect:
            case End(peer) if peer in self.dispatcher.peers:  # else it was lost in this very turn
                delay = self.sim.world.control_s * self.sim.rng.random()
                self.sim.at(delay, self._kill, self.children[peer], self.dispatcher.peers[peer].ending)
            case End(peer) if not self.children[peer].lost:
                self.gave_up(self.children[peer])
            case Send(peer, message):
                self.children[peer].hear(message)

    def gave_up(self, child: Any) -> None:
        """The dispatcher takes a silent child for lost; it may live on, and come back."""
        silence_s, now = self.sim.world.silence_s, self.sim.now
        if silence_s is None or (
            max(child.stood_still, child.joined) < now - silence_s and not self.sim.world.late
        ):
            raise Wrong(f"peer {child.peer} was given up, and had not been silent")
        self.sim.truth.given_up += 1
        self.sim.truth.excuse(child)
        child.die("silent", lives_on=True)

    def _kill(self, child: Child, ending: int) -> None:
        """A child is ended because its task is to be cancelled by force."""
        if child.lost:
            return
        if child.current is not None and (hit := child.current.id + child.item) != ending:
            raise Wrong(f"the kill for task {ending} hit task {hit}")
        child.die("killed")

    # ---- hands

    def _look_at_hands(self, effects: list[Any], hands: dict[int, bool]) -> None:
        peers = self.dispatcher.peers
        sends = [effect for effect in effects if type(effect) is Send]
        runs = [(send.peer, send.message) for send in sends if type(send.message) is Run]
        if runs:
            self._look_at_order(runs)
            at_work = sum(1 for peer in peers.values() if peer.hand and not peer.waiting)
            fresh = any(not hands.get(id_) for id_, _ in runs)
            if self.slots is not None and at_work > self.slots and fresh:
                raise Wrong(f"{at_work} peers at work, {self.slots} slots")
        for id_, run in runs:
            for task in run.tasks:
                cost_s = self.dispatcher._dealer.pace.cost_s(task.fn)
                self.children[id_].estimates[task.ordinal] = cost_s or 0.0
        recalled = {send.peer for send in sends if type(send.message) is Recall}
        for id_, _ in runs:
            peer = peers[id_]
            if peer.waiting or peer.leaving or peer.ending >= 0 or (peer.asked and id_ not in recalled):
                raise Wrong(f"peer {id_} was given something while it waits, or is asked for what it has")
        for id_, run in dict(runs).items():  # the last to each
            self._look_at_credit(peers[id_], run)

    def _look_at_order(self, runs: list[tuple[int, Run]]) -> None:
        peers = self.dispatcher.peers
        left = [task for task in self.dispatcher.ledger.tasks.values() if task.state == QUEUED]
        for id_, run in runs:
            dealt = [task.options.priority for task in run.tasks]
            better = [task.options.priority for task in left if peers[id_].accepts(task.lane)]
            if dealt != sorted(dealt, reverse=True) or (better and max(better) > dealt[-1]):
                raise Wrong("a task of a lower priority was dealt before a higher one")
            if not all(peers[id_].accepts(task.lane) for task in run.tasks):
                raise Wrong(f"peer {id_} was given what it does not take")
        dealt = [task.options.priority for _, run in runs for task in run.tasks]
        if not self.sim.world.lanes and dealt != sorted(dealt, reverse=True):
            raise Wrong("a task of a lower priority was dealt before a higher one, to another peer")

    def _look_at_credit(self, peer: Peer, run: Run) -> None:
        before = peer.items - run.tasks[-1].count
        if peer.items > HAND_MAX or (
            peer.bytes - size(run.tasks[-1]) > HAND_BYTES_MAX and before >= 2 * peer.slots
        ):
            raise Wrong(f"peer {peer.id} has too much in hand")
        child, cost_s = self.children[peer.id], self.dispatcher._dealer.pace.cost_s
        # What a task costs may have changed since it was given: neither estimate may lead to a hoard. Beside the
        # first, which runs, and whose estimate may have been all wrong.
        total = sum(
            min(child.estimates[task.ordinal], cost_s(task.fn) or 0.0) * task.count
            for task in list(peer.hand.values())[peer.slots :]
        )
        window_s = peer.window_s * peer.slots
        if peer.items > 2 * peer.slots and (peer.hand_s > window_s + 1e-9 or total > 5 * window_s):
            raise Wrong(f"peer {peer.id} has {peer.items} in hand, for {peer.hand_s} or {total} s")
        unknown = any(task.fn not in self.paced for task in peer.hand.values())
        if peer.items > peer.slots and unknown and not peer.is_node:
            raise Wrong(f"peer {peer.id} has {peer.items} in hand, among them one of unknown cost")


def short(task: Task) -> str:
    """A task, for the reader."""
    return f"{task.id}+{task.count}@{task.ordinal} fn{task.fn}" + (
        f" needs{task.needs}" if task.needs else ""
    )


def shown(effect: Any) -> str:
    """An effect, for the reader."""
    if isinstance(effect, Send) and isinstance(effect.message, Run):
        return f"run {effect.peer}: {[short(task) for task in effect.message.tasks]}"
    if isinstance(effect, Record):
        return f"record {effect.kind} {effect.state} {[(task.id, task.count) for task in effect.tasks]}"
    if isinstance(effect, Settle):
        return f"settle {effect.state} {[(task.id, task.count) for task in effect.tasks]}"
    return str(effect)
