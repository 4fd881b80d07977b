"""Which task runs next, where, under which lease, and what happens when a worker vanishes.

The life of a task:

    submit --> WAITING ----> QUEUED <----> LEASED --> SUCCEEDED | FAILED
       |        (needs)        ^  |          | |
       +-----> SCHEDULED ------+  |          | +----> DEAD (its worker died of it too often)
       |        (countdown)    |  |          v
       |                       +--|------ RETRYING (its backoff)
       +--------------------------+---> CANCELLED | UPSTREAM_FAILED | EXPIRED

QUEUED tasks are dealt to peers that have credit; what is dealt is LEASED, whether it has started or waits in the
peer's hand. It comes back to QUEUED when it is recalled unstarted or when its peer is lost; only the task that was
running when the peer was lost is blamed for it. `receive` notes, `turn` decides: a turn a message would cost ten times
as much a task as a turn for all that has come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from msgspec.structs import astuple

from zmqtasks.core.attempts import count_deaths
from zmqtasks.core.cancels import Cancels
from zmqtasks.core.deal import Dealer
from zmqtasks.core.effects import ACCEPTED, DELIVERED, Effect, End, Record, Send
from zmqtasks.core.history import History
from zmqtasks.core.intake import Intake
from zmqtasks.core.join import Delivery
from zmqtasks.core.ledger import Ledger
from zmqtasks.core.limits import Limits
from zmqtasks.core.losses import Losses
from zmqtasks.core.pace import NODE_WINDOW_S
from zmqtasks.core.peer import Peer
from zmqtasks.core.retry import Retries
from zmqtasks.core.silence import Silence
from zmqtasks.core.waits import Waits
from zmqtasks.core.workflow import Forsaking
from zmqtasks.loans import Told
from zmqtasks.members import Closed, Gone
from zmqtasks.messages import (
    CANCELLED,
    FAILED,
    LEASED,
    SUCCEEDED,
    Answered,
    Beat,
    Cancel,
    Claimed,
    Done,
    Ends,
    Joined,
    Leaving,
    Lost,
    Part,
    Recall,
    Resumed,
    Returned,
    Running,
    Slots,
    Submit,
    Task,
    Waiting,
)


class Dispatcher:
    """The machine. `slots`: how many peers may be at work at a time, without those that wait (None: all of them).

    `queue_max`: how many tasks may be unsettled at a time; what comes above it is refused: CANCELLED, with `FULL`.
    `silence_s`: a peer of which nothing came for so long is given up for lost (None: only when the host says so). It
    must say something more often, be it `Beat`. If it comes back it has to join anew, under another number.
    `retries`: what fails is retried and what is late expires here; else that is for the dispatcher above, and a task
    whose failure asks for a retry ends FAILED with its `ask`. `limits`: a peer is ended where a time limit is over.
    `history`: it is told of all that happens.
    """

    def __init__(
        self, *, slots: int | None = None, queue_max: int | None = None, silence_s: float | None = None,
        retries: bool = True, limits: bool = True, history: History | None = None,
    ) -> None:  # fmt: skip
        self.ledger = Ledger()
        self.ledger.history = history
        self.peers: dict[int, Peer] = {}
        self.queue_max = queue_max
        self.silence_s = silence_s
        self._inbox: list[tuple[int, Any]] = []
        self._sends: list[Effect] = []
        self._retries = Retries(self.ledger, here=retries)
        self._limits = Limits(self.peers, self._sends, here=limits)
        self._dealer = Dealer(self.ledger, slots)
        self.pace = self._dealer.pace
        self._cancels = Cancels(self.ledger, self.peers, self._sends)
        self._losses = Losses(self.ledger, self._retries, self._cancels)
        self._forsaking = Forsaking(self.ledger, self._cancels)
        self._intake = Intake(self.ledger, self._retries, self._limits, queue_max)
        self.waits = Waits(self.ledger, self.peers, self._cancels, self._sends)
        self.holds = False  # nothing is dealt: what has not started is wanted elsewhere
        self._silence = Silence(silence_s)

    # ---- the contract of a machine ------------------------------------------------------------------------------

    def receive(self, peer: int, message: Any, now: float) -> None:
        """Note `message` of `peer`: the next turn decides."""
        self._inbox.append((peer, message))
        if (known := self.peers.get(peer)) is not None:
            known.heard = now

    def turn(self, now: float) -> list[Effect]:
        """Decide for all that was noted and all that is due; the effects are to be performed in their order."""
        inbox, self._inbox = self._inbox, []
        if (history := self.ledger.history) is not None:
            history.begin(now, empty=not self.ledger.tasks)
        for peer, message in inbox:
            self._reactions[type(message)](self, peer, message, now)
        for silent in self._silence.look(self.peers.values(), now):
            self._give_up(silent, now)
        ledger, dealer, peers = self.ledger, self._dealer, self.peers.values()
        ledger.release_due(now)
        if ledger.starts.heap:
            self._cancels.expire(now)
        if ledger.joins.left or ledger.joins.due or ledger.joins.ended_hard:
            self._forsaking.settle(now)
        if ledger.settles:
            self.waits.resume_settled()
        if self._limits.looks:
            self._limits.look(now)
        if watched := [peer for peer in peers if peer.due is not None]:
            for late in dealer.overdue(watched, now):
                self._cancels.recall(late)
        if ledger.ready.size and not self.holds:
            for taker, run in dealer.deal(peers, now):
                self._sends.append(Send(taker.id, run))
                if history is not None:
                    history.given(taker.id, run.first, run.tasks, spans=bool(ledger.spans))
                if self._limits.fns:
                    self._limits.dealt(taker, run.tasks, now)
        if [peer for peer in peers if peer.items > peer.slots] and not self.holds:
            for rich in dealer.steal(peers):
                self._cancels.recall(rich)
        accepted = self._intake.accepted
        effects: list[Effect] = [Record(ACCEPTED, accepted)] if accepted else []
        effects += ledger.records
        effects += ledger.settles
        effects += ledger.loans.asks()
        effects += self._sends
        ledger.records, ledger.settles, self._intake.accepted = [], [], []
        self._sends.clear()
        return effects

    def next_deadline(self) -> float | None:
        """When `turn` is due even if nothing comes, or None."""
        times = [peer.due for peer in self.peers.values() if peer.due is not None]
        if (eta := self.ledger.later.next_deadline()) is not None:
            times.append(eta)
        if self.ledger.starts.heap and (latest := self.ledger.starts.next_deadline()) is not None:
            times.append(latest)
        times += self._limits.looks.values()
        if self.peers and (look := self._silence.next_deadline()) is not None:
            times.append(look)
        return min(times) if times else None

    def check(self) -> None:
        """Assert the invariants, in both directions."""
        self.ledger.check()
        for task in self.ledger.tasks.values():
            if task.state == LEASED:
                assert self.peers[task.peer].find(task.ordinal, task.offset) is task, (
                    f"task {task.id} is leased and in no hand"
                )
        for peer in self.peers.values():
            peer.check()
            for task in peer.hand.values():
                assert self.ledger.tasks.get(task.id) is task, f"task {task.id} is in a hand and unknown"
            answering = peer.asked or peer.due is not None or peer.ending >= 0 or peer.is_node or peer.awaits
            assert answering or not peer.questions, f"peer {peer.id}: a question waits for nothing"
        self.waits.check()

    # ---- for a dispatcher above this one, by its node ------------------------------------------------------------

    def is_asking(self) -> bool:
        """Whether a peer has not yet said what it has not started."""
        return any(peer.asked for peer in self.peers.values())

    def take_back(self) -> list[Task]:
        """Everything that is queued: it is not this dispatcher's any more."""
        return self.ledger.give_up_queued()

    def _recall(self, _peer: int, _message: Recall, _now: float) -> None:
        for peer in self.peers.values():
            if peer.items > peer.slots and not (peer.asked or peer.ending >= 0):
                self._cancels.recall(peer)

    # ---- outcomes ------------------------------------------------------------------------------------------------

    def _done(self, peer_id: int, message: Done, now: float) -> None:
        peer = self.peers.get(peer_id)
        if peer is None:
            return
        for fn, tasks, seconds in message.pace:
            self._dealer.pace.note(fn, tasks, seconds)
        work = self._done_singles(peer, message, now)
        for part in message.parts:
            work += self._done_part(peer, part, message, now)
        self.ledger.deliver(work, now)
        self._moved(peer, now)

    def _moved(self, peer: Peer, now: float) -> None:
        """Something of what `peer` had in hand is settled."""
        peer.overdue = peer.barren = False
        if peer.doomed[0] >= 0:
            self._limits.relieve(peer)
        self._dealer.weigh(peer)
        peer.watch(now)
        if peer.questions and peer.is_node:
            peer.forget_ranges()
        elif peer.questions and not peer.asked and peer.ending < 0:
            self._cancels.ask_again(peer, now)

    def _done_singles(self, peer: Peer, message: Done, now: float) -> list[Delivery]:
        hand, payloads, failed = peer.hand, message.payloads, message.failed
        for ordinal, _, deliveries in message.died:
            if (task := hand.get(ordinal)) is not None and not task.span:
                count_deaths(task, deliveries)
        tasks: list[Task] = []
        stale: list[int] = []
        for ordinal in range(message.first, message.first + len(payloads)):
            task = hand.pop(ordinal, None)
            if task is None or task.span:  # not the current lease: said twice, or recalled
                stale.append(ordinal - message.first)
                if task is not None:
                    hand[ordinal] = task
            else:
                tasks.append(task)
        if not tasks:
            return []
        peer.drop_singles(tasks, self._dealer.pace.cost_s)
        if not stale and not failed:
            lease = None if message.died else (peer.id, message.first)
            return self.ledger.settle(SUCCEEDED, tasks, payloads, lease)
        kept = [index for index in range(len(payloads)) if index not in set(stale)]
        outcomes = [(task, payloads[index], index in failed) for task, index in zip(tasks, kept, strict=True)]
        if message.asks:
            ordinals = [message.first + index for index in kept]
            outcomes = self._retries.sift(ordinals, outcomes, message.asks, now)
        return self.ledger.settle_outcomes(outcomes)

    def _done_part(self, peer: Peer, part: Part, message: Done, now: float) -> list[Delivery]:
        task = self._take(peer, part.ordinal, part.offset, part.items)
        if task is None:
            return []
        for ordinal, offset, deliveries in message.died:
            if (ordinal, offset) == (part.ordinal, part.offset):
                count_deaths(task, deliveries)
        if part.failed and message.asks and self._retries.took(task, part, message.asks, now):
            return []
        return self.ledger.settle(FAILED if part.failed else SUCCEEDED, [task], [part.payload])

    def _take(self, peer: Peer, ordinal: int, offset: int, items: int) -> Task | None:
        """Take exactly these items out of the hand of `peer`; None where they are not all there.

        Then they are not of the current lease, or have been taken before.
        """
        task = peer.find(ordinal, offset)
        if task is None or items < 1 or offset + items > task.offset + task.count:
            return None
        cost_s = peer.counted_s(self._dealer.cost_s(task, 1)) * items
        if offset > task.offset:
            peer.keep(self.ledger.split(task, offset - task.offset), task)
        peer.drop(task, items, cost_s)
        return self.ledger.split(task, items) if items < task.count else task

    def _ends(self, peer_id: int, message: Ends, now: float) -> None:
        peer = self.peers.get(peer_id)
        if peer is None:
            return
        for ordinal, offset, items, state, payload, deliveries in map(astuple, message.ends):
            if (task := self._take(peer, ordinal, offset, items)) is not None:
                if peer.is_node:
                    task.attempt -= 1  # either it has not begun again, or that is among the deliveries
                elif state == CANCELLED:
                    self._cancels.answer_ended(peer, task.id)
                count_deaths(task, deliveries)
                self.ledger.deliver(self.ledger.settle(state, [task], [payload]), now)
        self._moved(peer, now)

    # ---- peers ---------------------------------------------------------------------------------------------------

    def _joined(self, peer: int, message: Joined, now: float) -> None:
        if peer not in self.peers:
            window_s = NODE_WINDOW_S if message.node else self._dealer.window_s
            self.peers[peer] = Peer(
                peer, message.slots, now, is_node=message.node, lanes=message.lanes, window_s=window_s
            )
        else:
            self.peers[peer].lanes = message.lanes  # there are new lanes

    def _slots(self, peer_id: int, message: Slots, now: float) -> None:
        if (peer := self.peers.get(peer_id)) is not None:
            peer.slots = message.slots
            peer.awaits = bool(message.awaiting)
            if peer.questions and not (peer.awaits or peer.asked or peer.is_node or peer.ending >= 0):
                self._cancels.ask_again(peer, now)
            self.pace.awaiting.update(message.awaiting)
            for fn in message.waiting:
                self.pace.waits(fn)
            self._dealer.weigh(peer, whole=True)  # on many slots a long task counts less
            peer.watch(now)

    def _running(self, peer_id: int, message: Running, now: float) -> None:
        if (peer := self.peers.get(peer_id)) is not None:
            peer.running = message.leases
            peer.begun = {lease: peer.begun.get(lease, now) for lease in message.leases}

    def _leaving(self, peer_id: int, _message: Leaving, _now: float) -> None:
        if (peer := self.peers.get(peer_id)) is not None:
            peer.leaving = True
            if not peer.asked:
                self._cancels.recall(peer)

    def _answered(self, peer_id: int, message: Answered, _now: float) -> None:
        if (peer := self.peers.get(peer_id)) is not None:
            self._cancels.hear(peer, message)

    def _waiting(self, peer_id: int, message: Waiting, now: float) -> None:
        if (peer := self.peers.get(peer_id)) is not None:
            if peer.hand and not peer.awaits:
                self.pace.waits(next(iter(peer.hand.values())).fn)  # the first in a hand runs
            self.waits.begin(peer, message, now)

    def _resumed(self, peer_id: int, _message: Resumed, _now: float) -> None:
        if (peer := self.peers.get(peer_id)) is not None:
            peer.waiting = False

    def _returned(self, peer_id: int, message: Returned, now: float) -> None:
        peer = self.peers.get(peer_id)
        if peer is None:
            return
        back: list[Task] = []
        died = {(ordinal, offset): deliveries for ordinal, offset, deliveries in message.died}
        for ordinal, offset, items in message.rest:
            if (task := self._take(peer, ordinal, offset, items)) is not None:
                back.append(task)
                task.attempt -= 1  # it has not begun
                if (ordinal, offset) in died:
                    count_deaths(task, died[ordinal, offset])
                    self.ledger.records.append(Record(DELIVERED, [task]))
        self.ledger.requeue(back, "given back before it began")
        peer.asked = False
        peer.barren = not back
        peer.fresh = peer.next_ordinal
        peer.overdue = peer.overdue and bool(peer.hand)  # of nothing in hand there is no progress to wait for
        peer.watch(now)
        if peer.is_node:
            self._cancels.ask_about(peer, back, now)
        else:
            self._cancels.ask_again(peer, now)

    def _lost(self, peer_id: int, message: Lost, now: float) -> None:
        self.ledger.told(self.ledger.loans.lapse(peer_id), now)
        peer = self.peers.pop(peer_id, None)
        if peer is None:
            return
        self._limits.looks.pop(peer_id, None)
        self._losses.settle(peer, message, now)
        self._cancels.ask_again(peer, now)

    def _give_up(self, peer: Peer, now: float) -> None:
        """Nothing has come of it for too long: it counts as lost; of a worker nobody knows what ran there."""
        peer.running = []  # a machine that stands still or a long message, say: no task of it is to blame
        self._lost(peer.id, Lost(f"nothing was heard of it for {self.silence_s:g} s"), now)
        self._sends.append(End(peer.id))

    _reactions: ClassVar[dict[type, Callable[..., None]]] = {
        Submit: lambda self, peer, message, now: self._intake.submit(
            peer, message, now, nested=message.first or peer in self.peers
        ),
        Done: _done,
        Joined: _joined,
        Returned: _returned,
        Waiting: _waiting,
        Resumed: _resumed,
        Lost: _lost,
        Cancel: lambda self, _, message, now: self._cancels.ask(message, now),
        Told: lambda self, _, message, now: self.ledger.told(message.known, now),
        Closed: lambda self, _, message, now: self.ledger.close(message, now),
        Gone: lambda self, _, message, now: self.ledger.abandon(message, now),
        Claimed: lambda self, _, message, now: self._limits.claimed(message, now),
        Beat: lambda *_: None,  # `receive` has noted when
        Ends: _ends,
        Running: _running,
        Slots: _slots,
        Leaving: _leaving,
        Answered: _answered,
        Recall: _recall,
    }
