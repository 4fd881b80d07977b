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
from copy import copy
from typing import Any, ClassVar

from zmqtasks.core.cancels import Cancels
from zmqtasks.core.deal import Dealer
from zmqtasks.core.effects import ACCEPTED, DELIVERED, Effect, End, Record, Send
from zmqtasks.core.ledger import Delivery, Ledger
from zmqtasks.core.limits import Limits, ask_of, text_of
from zmqtasks.core.peer import Peer
from zmqtasks.core.retry import Retries
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    FAILED,
    FULL,
    LEASED,
    NEW,
    QUEUED,
    SUCCEEDED,
    Ask,
    Beat,
    Cancel,
    Claimed,
    Deep,
    Done,
    Joined,
    Lost,
    Part,
    Resumed,
    Returned,
    Submit,
    Task,
    Waiting,
)
from zmqtasks.options import DEFAULT_OPTIONS

WAITING_MAX = 64  # peers whose task may wait for others at a time
LOOKS = 4  # how often it is looked, within the time after which silence counts, who is silent


class Dispatcher:
    """The machine. `slots`: how many peers may be at work at a time, without those that wait (None: all of them).

    `queue_max`: how many tasks may be unsettled at a time; what comes above it is refused: CANCELLED, with `FULL`.
    `silence_s`: a peer of which nothing came for so long is given up for lost (None: only when the host says so). It
    must say something more often, be it `Beat`. If it comes back it has to join anew, under another number.
    `retries`: what fails is retried and what is late expires here; else that is for the dispatcher above, and a task
    whose failure asks for a retry ends FAILED with its `ask`. `limits`: a peer is ended where a time limit is over.
    """

    def __init__(
        self, *, slots: int | None = None, queue_max: int | None = None, silence_s: float | None = None,
        retries: bool = True, limits: bool = True,
    ) -> None:  # fmt: skip
        self.ledger = Ledger()
        self.peers: dict[int, Peer] = {}
        self.queue_max = queue_max
        self.silence_s = silence_s
        self._inbox: list[tuple[int, Any]] = []
        self._accepted: list[Task] = []
        self._sends: list[Effect] = []
        self._retries = Retries(self.ledger, here=retries)
        self._limits = Limits(self.peers, self._sends, here=limits)
        self._dealer = Dealer(self.ledger, slots)
        self._cancels = Cancels(self.ledger, self.peers, self._sends)
        self._looked: float | None = None  # when there was a turn last

    # ---- the contract of a machine ------------------------------------------------------------------------------

    def receive(self, peer: int, message: Any, now: float) -> None:
        """Note `message` of `peer`: the next turn decides."""
        self._inbox.append((peer, message))
        if (known := self.peers.get(peer)) is not None:
            known.heard = now

    def turn(self, now: float) -> list[Effect]:
        """Decide for all that was noted and all that is due; the effects are to be performed in their order."""
        inbox, self._inbox = self._inbox, []
        for peer, message in inbox:
            self._reactions[type(message)](self, peer, message, now)
        if self.silence_s is not None:
            self._give_up_silent(self.silence_s, now)
        ledger, dealer, peers = self.ledger, self._dealer, self.peers.values()
        ledger.release_due(now)
        if ledger.starts.heap:
            self._cancels.expire(now)
        if ledger.settles:
            self._resume_settled()
        if self._limits.looks:
            self._limits.look(now)
        if watched := [peer for peer in peers if peer.due is not None]:
            for late in dealer.overdue(watched, now):
                self._cancels.recall(late)
        if ledger.ready.size:
            for taker, run in dealer.deal(peers, now):
                self._sends.append(Send(taker.id, run))
                if self._limits.fns:
                    self._limits.dealt(taker, run.tasks, now)
        if any(peer.items > peer.slots for peer in peers):
            for rich in dealer.steal(peers):
                self._cancels.recall(rich)
        effects: list[Effect] = [Record(ACCEPTED, self._accepted)] if self._accepted else []
        effects += ledger.records
        effects += ledger.settles
        effects += self._sends
        ledger.records, ledger.settles, self._accepted = [], [], []
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
        if self.silence_s is not None and self.peers and self._looked is not None:
            times.append(self._looked + self.silence_s / LOOKS)
        return min(times) if times else None

    def check(self) -> None:
        """Assert the invariants, in both directions."""
        self.ledger.check()
        for task in self.ledger.tasks.values():
            if task.state == LEASED:
                assert self.peers[task.peer].hand[task.ordinal] is task, (
                    f"task {task.id} is leased and in no hand"
                )
        for peer in self.peers.values():
            assert peer.items == sum(task.count for task in peer.hand.values()), f"peer {peer.id}: items"
            assert peer.bytes == sum(len(task.payload) for task in peer.hand.values()), (
                f"peer {peer.id}: bytes"
            )
            for ordinal, task in peer.hand.items():
                assert (task.state, task.peer, task.ordinal) == (LEASED, peer.id, ordinal), (
                    f"peer {peer.id}: hand"
                )
                assert self.ledger.tasks.get(task.id) is task, f"task {task.id} is in a hand and unknown"
            answering = peer.asked or peer.due is not None or peer.ending >= 0
            assert answering or not peer.questions, f"peer {peer.id}: a question waits for nothing"
        assert sum(1 for peer in self.peers.values() if peer.waiting) <= WAITING_MAX, "too many wait"

    # ---- tasks ---------------------------------------------------------------------------------------------------

    def _submit(self, peer: int, message: Submit, now: float) -> None:
        ledger, refused, nested = self.ledger, [], peer in self.peers
        plain = 0 if nested or self.queue_max is not None else self._submit_plain(message.tasks)
        for task in message.tasks[plain:]:
            if task.state != NEW or task.id in ledger.tasks:
                continue  # said twice
            if self.queue_max is not None and ledger.pending + task.count > self.queue_max:
                refused.append(task)
            else:
                ledger.submitted += task.count
                ledger.counts[NEW] += task.count
                # A span may be cut before the turn is over: the journal gets it whole.
                self._accepted.append(task if task.count == 1 else copy(task))
                if task.options.timed:
                    self._limits.submitted(task)
                    self._retries.submitted(task, now)
                ledger.add(task, message.known, now, nested=nested)
        if refused:
            ledger.submitted += (items := sum(task.count for task in refused))
            ledger.counts[NEW] += items
            ledger.settle(CANCELLED, refused, [FULL] * len(refused))

    def _submit_plain(self, tasks: list[Task]) -> int:
        """The hot path: take in single tasks to be run at once, up to the first of another kind; how many."""
        known, push = self.ledger.tasks, self.ledger.ready.push
        count = 0
        for task in tasks:
            if task.needs or task.span or task.state != NEW or task.id in known:
                break
            if task.options is not DEFAULT_OPTIONS and task.options.timed:
                break
            task.state = QUEUED
            known[task.id] = task
            push(task)
            count += 1
        self.ledger.submitted += count
        self.ledger.counts[QUEUED] += count
        self._accepted += tasks[:count]
        return count

    def _done(self, peer_id: int, message: Done, now: float) -> None:
        peer = self.peers.get(peer_id)
        if peer is None:
            return
        for fn, tasks, seconds in message.pace:
            self._dealer.pace.note(fn, tasks, seconds)
        work = self._done_singles(peer, message, now)
        for part in message.parts:
            work += self._done_part(peer, part, message.asks, now)
        peer.overdue = peer.barren = False
        if peer.doomed[0] >= 0:
            self._limits.relieve(peer)
        self._dealer.weigh(peer)
        peer.watch(now)
        self.ledger.deliver(work, now)
        if peer.questions and not peer.asked and peer.ending < 0:
            self._cancels.ask_again(peer, now)

    def _done_singles(self, peer: Peer, message: Done, now: float) -> list[Delivery]:
        hand, payloads, failed = peer.hand, message.payloads, message.failed
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
            return self.ledger.settle(SUCCEEDED, tasks, payloads)
        kept = [index for index in range(len(payloads)) if index not in set(stale)]
        outcomes = [(task, payloads[index], index in failed) for task, index in zip(tasks, kept, strict=True)]
        if message.asks:
            ordinals = [message.first + index for index in kept]
            outcomes = self._retries.sift(ordinals, outcomes, message.asks, now)
        work: list[Delivery] = []
        for state in (SUCCEEDED, FAILED):
            chosen = [
                (task, payload) for task, payload, is_failure in outcomes if is_failure == (state == FAILED)
            ]
            if chosen:
                work += self.ledger.settle(
                    state, [task for task, _ in chosen], [payload for _, payload in chosen]
                )
        return work

    def _done_part(self, peer: Peer, part: Part, asks: list[Ask], now: float) -> list[Delivery]:
        task = peer.hand.get(part.ordinal)
        if task is None or not task.span or part.offset != task.offset or part.items > task.count:
            return []  # not the current lease, or a part that was settled before
        peer.drop(task, part.items, self._dealer.cost_s(task, part.items))
        if part.items < task.count:
            task = self.ledger.split(task, part.items)
        if part.failed and asks and self._retries.took(task, part, asks, now):
            return []
        return self.ledger.settle(FAILED if part.failed else SUCCEEDED, [task], [part.payload])

    # ---- peers ---------------------------------------------------------------------------------------------------

    def _joined(self, peer: int, message: Joined, now: float) -> None:
        if peer not in self.peers:
            self.peers[peer] = Peer(peer, message.slots, now)

    def _waiting(self, peer_id: int, message: Waiting, now: float) -> None:
        peer = self.peers.get(peer_id)
        if peer is None or (message.on >= 0 and self.ledger.find(message.on) is None):
            return  # what it waits for is settled: it goes on
        if sum(1 for other in self.peers.values() if other.waiting) >= WAITING_MAX:
            self._sends.append(Send(peer_id, Deep()))
            self._drop_unawaited(message.on, now)
            return
        peer.waiting = True
        peer.waits_on = message.on
        peer.due = None
        if peer.items > peer.slots and not peer.asked:
            self._cancels.recall(peer)  # dealt before this was heard: it would wait with the peer

    def _drop_unawaited(self, id_: int, now: float) -> None:
        """A recursion that is refused ends here: what nobody may wait for would only carry it on."""
        task = self.ledger.find(id_)
        if task is not None and task.state != LEASED:
            single = self.ledger.single(task, id_)
            self.ledger.deliver(self.ledger.settle(CANCELLED, [single], ["the recursion is too deep"]), now)

    def _resume_settled(self) -> None:
        """Those whose wait is over go on, before they say so."""
        for peer in self.peers.values():
            if peer.waiting and peer.waits_on >= 0 and self.ledger.find(peer.waits_on) is None:
                peer.waiting = False

    def _resumed(self, peer_id: int, _message: Resumed, _now: float) -> None:
        if (peer := self.peers.get(peer_id)) is not None:
            peer.waiting = False

    def _returned(self, peer_id: int, message: Returned, now: float) -> None:
        peer = self.peers.get(peer_id)
        if peer is None:
            return
        back: list[Task] = []
        for ordinal, items in message.rest:
            task = peer.hand.get(ordinal)
            if task is None or not 0 < items <= task.count:
                continue
            if items < task.count:
                front = self.ledger.split(task, task.count - items)
                front.peer, front.ordinal = peer.id, ordinal
                peer.hand[ordinal] = front
                peer.items -= items
                peer.hand_s = max(0.0, peer.hand_s - self._dealer.cost_s(task, items))
            else:
                peer.drop(task, items, self._dealer.cost_s(task, items))
            back.append(task)
        self.ledger.requeue(back)
        peer.asked = False
        peer.barren = not back
        peer.overdue = peer.overdue and bool(peer.hand)  # of nothing in hand there is no progress to wait for
        peer.watch(now)
        self._cancels.ask_again(peer, now)

    def _lost(self, peer_id: int, message: Lost, now: float) -> None:
        peer = self.peers.pop(peer_id, None)
        if peer is None:
            return
        self._limits.looks.pop(peer_id, None)
        back = list(peer.hand.values())
        work: list[Delivery] = []
        task = peer.hand.get(message.ordinal)
        if task is not None and message.item >= task.offset:  # else it was through, and its claim lags behind
            at = back.index(task)
            parts = []
            if 0 < message.item - task.offset < task.count:
                parts.append(self.ledger.split(task, message.item - task.offset))
            culprit = self.ledger.split(task, 1) if task.count > 1 else task
            parts += [culprit] if culprit is task else [culprit, task]
            back[at : at + 1] = parts
            culprit.deliveries += 1
            state, reason = LEASED, message.reason
            if peer.ending == culprit.id:
                state, reason = CANCELLED, "cancelled while it was running"
            elif peer.doomed == (message.ordinal, message.item):
                culprit.deliveries -= 1  # it was not lost
                state, reason = FAILED, text_of(culprit)
            elif culprit.deliveries >= culprit.options.max_deliveries:
                state = DEAD
            if state == LEASED:
                self.ledger.records.append(Record(DELIVERED, [culprit]))
            else:
                back.remove(culprit)
                ask = ask_of(culprit) if state == FAILED else None
                if ask is None or not self._retries.again(culprit, ask, reason, now):
                    work = self.ledger.settle(state, [culprit], [reason])
            if state == CANCELLED:
                self._cancels.answer_ended(peer, culprit.id)
        self.ledger.requeue(back)
        self.ledger.deliver(work, now)
        self._cancels.ask_again(peer, now)

    def _give_up_silent(self, silence_s: float, now: float) -> None:
        """Peers of which nothing has come for too long are lost; nobody is blamed, for nobody knows what ran there."""
        if self._looked is None or now - self._looked > 2 * silence_s / LOOKS:
            # It was this process that stood still: what the others said meanwhile is still on its way in.
            for peer in self.peers.values():
                peer.heard = now
        self._looked = now
        for peer in [peer for peer in self.peers.values() if now - peer.heard >= silence_s]:
            self._lost(peer.id, Lost(f"nothing was heard of it for {silence_s:g} s"), now)
            self._sends.append(End(peer.id))

    def _cancel(self, _peer: int, message: Cancel, now: float) -> None:
        self._cancels.ask(message, now)

    def _beat(self, _peer: int, _message: Beat, _now: float) -> None:
        """`receive` has noted when."""

    _reactions: ClassVar[dict[type, Callable[..., None]]] = {
        Submit: _submit,
        Done: _done,
        Joined: _joined,
        Returned: _returned,
        Waiting: _waiting,
        Resumed: _resumed,
        Lost: _lost,
        Cancel: _cancel,
        Claimed: lambda self, _, message, now: self._limits.claimed(message, now),
        Beat: _beat,
    }
