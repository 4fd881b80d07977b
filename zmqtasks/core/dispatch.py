"""Which task runs next, where, under which lease, and what happens when a worker vanishes.

The life of a task:

    submit --> WAITING ----> QUEUED <----> LEASED --> SUCCEEDED | FAILED
       |        (needs)        ^  |          |
       +-----> SCHEDULED ------+  |          +------> DEAD (its worker died of it too often)
       |        (countdown)       |
       +--------------------------+---> CANCELLED | UPSTREAM_FAILED

QUEUED tasks are dealt to peers that have credit; what is dealt is LEASED, whether it has started or waits in the
peer's hand. It comes back to QUEUED when it is recalled unstarted or when its peer is lost; only the task that was
running when the peer was lost is blamed for it. `receive` notes, `turn` decides: a turn a message would cost ten times
as much a task as a turn for all that has come.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, ClassVar

from zmqtasks.core.deal import Dealer
from zmqtasks.core.effects import ACCEPTED, DELIVERED, Answer, Effect, End, Record, Send
from zmqtasks.core.ledger import Delivery, Ledger
from zmqtasks.core.pace import STEAL_S
from zmqtasks.core.peer import Peer
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    FAILED,
    FULL,
    LEASED,
    NEW,
    QUEUED,
    SUCCEEDED,
    Cancel,
    Deep,
    Done,
    Joined,
    Lost,
    Part,
    Recall,
    Resumed,
    Returned,
    Submit,
    Task,
    Unwanted,
    Waiting,
)

WAITING_MAX = 64  # peers whose task may wait for others at a time


class Dispatcher:
    """The machine. `slots`: how many peers may be at work at a time, without those that wait (None: all of them).

    `queue_max`: how many tasks may be unsettled at a time; what comes above it is refused: CANCELLED, with `FULL`.
    """

    def __init__(self, *, slots: int | None = None, queue_max: int | None = None) -> None:
        self.ledger = Ledger()
        self.peers: dict[int, Peer] = {}
        self.queue_max = queue_max
        self._dealer = Dealer(self.ledger, slots)
        self._inbox: list[tuple[int, Any]] = []
        self._accepted: list[Task] = []
        self._sends: list[Effect] = []

    # ---- the contract of a machine ------------------------------------------------------------------------------

    def receive(self, peer: int, message: Any, now: float) -> None:  # noqa: ARG002 - the contract has `now`
        """Note `message` of `peer`: the next turn decides."""
        self._inbox.append((peer, message))

    def turn(self, now: float) -> list[Effect]:
        """Decide for all that was noted and all that is due; the effects are to be performed in their order."""
        inbox, self._inbox = self._inbox, []
        for peer, message in inbox:
            self._reactions[type(message)](self, peer, message, now)
        ledger, dealer, peers = self.ledger, self._dealer, self.peers.values()
        if ledger.settles:
            self._resume_settled()
        ledger.release_due(now)
        if watched := [peer for peer in peers if peer.due is not None]:
            for late in dealer.overdue(watched, now):
                self._recall(late)
        if ledger.ready.size:
            self._sends += [Send(peer.id, run) for peer, run in dealer.deal(peers, now)]
        if any(peer.items > peer.slots for peer in peers):
            for rich in dealer.steal(peers):
                self._recall(rich)
        effects: list[Effect] = [Record(ACCEPTED, self._accepted)] if self._accepted else []
        effects += ledger.records
        effects += ledger.settles
        effects += self._sends
        ledger.records, ledger.settles, self._sends, self._accepted = [], [], [], []
        return effects

    def next_deadline(self) -> float | None:
        """When `turn` is due even if nothing comes, or None."""
        times = [peer.due for peer in self.peers.values() if peer.due is not None]
        if (eta := self.ledger.later.next_deadline()) is not None:
            times.append(eta)
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
            if task.needs or task.span or task.state != NEW or task.id in known or task.options.countdown:
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
        work = self._done_singles(peer, message)
        for part in message.parts:
            work += self._done_part(peer, part)
        peer.overdue = peer.barren = False
        self._dealer.weigh(peer)
        peer.watch(now)
        self.ledger.deliver(work, now)
        if peer.questions and not peer.asked and peer.ending < 0:
            self._ask_again(peer, now)

    def _done_singles(self, peer: Peer, message: Done) -> list[Delivery]:
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

    def _done_part(self, peer: Peer, part: Part) -> list[Delivery]:
        task = peer.hand.get(part.ordinal)
        if task is None or not task.span or part.offset != task.offset or part.items > task.count:
            return []  # not the current lease, or a part that was settled before
        peer.drop(task, part.items, self._dealer.cost_s(task, part.items))
        if part.items < task.count:
            task = self.ledger.split(task, part.items)
        return self.ledger.settle(FAILED if part.failed else SUCCEEDED, [task], [part.payload])

    # ---- peers ---------------------------------------------------------------------------------------------------

    def _joined(self, peer: int, message: Joined, _now: float) -> None:
        if peer not in self.peers:
            self.peers[peer] = Peer(peer, message.slots)

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
            self._recall(peer)  # dealt before this was heard: it would wait with the peer

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

    def _recall(self, peer: Peer) -> None:
        peer.asked = True
        peer.due = None
        self._sends.append(Send(peer.id, Recall()))

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
        self._ask_again(peer, now)

    def _lost(self, peer_id: int, message: Lost, now: float) -> None:
        peer = self.peers.pop(peer_id, None)
        if peer is None:
            return
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
            elif culprit.deliveries >= culprit.options.max_deliveries:
                state = DEAD
            if state == LEASED:
                self.ledger.records.append(Record(DELIVERED, [culprit]))
            else:
                back.remove(culprit)
                work = self.ledger.settle(state, [culprit], [reason])
            if state == CANCELLED:
                self._sends += [
                    Answer(asked.token, cancelled=True) for asked in peer.questions if asked.id == culprit.id
                ]
                peer.questions = [asked for asked in peer.questions if asked.id != culprit.id]
        self.ledger.requeue(back)
        self.ledger.deliver(work, now)
        for question in peer.questions:
            self._cancel(peer_id, question, now)

    # ---- cancelling ----------------------------------------------------------------------------------------------

    def _cancel(self, _peer: int, message: Cancel, now: float) -> None:
        if message.count > 1:
            self._cancel_range(message, now)
            return
        task = self.ledger.find(message.id)
        if task is None:
            self._sends.append(Answer(message.token, cancelled=False))
        elif task.state != LEASED:
            task = self.ledger.single(task, message.id)
            self.ledger.deliver(self.ledger.settle(CANCELLED, [task], ["cancelled before it started"]), now)
            self._sends.append(Answer(message.token, cancelled=True))
        else:
            self._cancel_leased(self.peers[task.peer], message, now)

    def _cancel_range(self, message: Cancel, now: float) -> None:
        ids = range(message.id, message.id + message.count)
        tasks = [
            task for task in self.ledger.tasks.values() if task.id in ids and task.id + task.count - 1 in ids
        ]
        gone = [task for task in tasks if task.state != LEASED]
        if gone:
            work = self.ledger.settle(CANCELLED, gone, ["cancelled before it started"] * len(gone))
            self.ledger.deliver(work, now)
        for index in {task.peer for task in tasks if task.state == LEASED}:
            peer = self.peers[index]
            if (peer.asked or not peer.barren) and message not in peer.questions:
                peer.questions.append(message)
                if not peer.asked:
                    self._recall(peer)

    def _ask_again(self, peer: Peer, now: float) -> None:
        """Something has come from `peer`: the cancels that waited for it may have their answer."""
        questions, peer.questions = peer.questions, []
        for question in questions:
            self._cancel(peer.id, question, now)

    def _cancel_leased(self, peer: Peer, message: Cancel, now: float) -> None:
        """It may have started: what has not comes back when asked for, and then the answer is certain."""
        if peer.asked:
            peer.questions.append(message)
        elif not peer.barren:
            peer.questions.append(message)
            self._recall(peer)
        elif not message.terminate:
            self._sends += [Send(peer.id, Unwanted(message.id)), Answer(message.token, cancelled=False)]
        elif peer.items > 1:
            # Outcomes of what ran before are on their way: of this task, or of others.
            peer.questions.append(message)
            peer.due = now + STEAL_S
        else:
            # It is all there is in hand, and nothing more is dealt to a peer that is ending: whatever the kill hits,
            # it is this task or none.
            peer.ending = message.id
            peer.questions.append(message)
            self._sends.append(End(peer.id))

    _reactions: ClassVar[dict[type, Callable[..., None]]] = {
        Submit: _submit,
        Done: _done,
        Joined: _joined,
        Returned: _returned,
        Waiting: _waiting,
        Resumed: _resumed,
        Lost: _lost,
        Cancel: _cancel,
    }
