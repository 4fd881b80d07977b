"""A stream of inputs on its way through workers: who has which, and what is handed out again.

Inputs come in batches of neighbours and are numbered. A batch is handed out whole or in part, as a parcel:

    READY --> SENT (in the pipe) --> HELD (a worker claims it) --> its items are accepted at the sink, and it is gone
      ^         |                       |    |
      +---------+ (lost in the pipe)    |    +--> LATER (an item failed, and asks for another attempt)
      +---------------------------------+ (recalled, or its worker was lost)

The pipe is one way and knows no names: what is lost there is known from silence alone. When workers idle, those that
are there are asked to read whatever they have, and to give back what they have not started (`Recall`); a parcel that
was sent well before that and that nobody has claimed is lost. That is done now and then though nobody seems to idle,
where one is overdue. A worker that lives keeps what it has begun, however long it takes: no input is run twice at the
same time unless its worker has fallen silent.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, ClassVar

from zmqtasks.core.effects import Effect, End, Send, Settle
from zmqtasks.core.pace import Pace
from zmqtasks.core.parcels import BASE_BITS, OVERDUE_S, OVERDUE_S_MAX, PIPE_S, Batch, Hand, Parcel, Queue
from zmqtasks.core.retry import LOG_MAX, backoff_s
from zmqtasks.messages import (
    FAILED,
    Accepted,
    Ask,
    Beat,
    Claim,
    Course,
    Done,
    Ends,
    Feed,
    Leaving,
    Lost,
    Recall,
    Returned,
    Run,
    Slots,
    Task,
)
from zmqtasks.options import DEFAULT_OPTIONS, DEFAULT_RETRY, Options

BATCH_S = 0.004  # what a batch is to take a worker's child
ITEMS_MAX = 4096  # in a batch, however short they are
LOOKS = 4  # how often, within the time after which silence counts, it is looked who is silent
FN = 1  # a pipeline has one function


class Stream:
    """The machine. `options` are those of each input; `silence_s`: a worker silent for so long is given up.

    Outcomes do not pass through here, only that the sink has accepted them (`Accepted`), and failures that no worker
    can tell the sink of: a `Settle` is one item's, its task under its number.
    """

    def __init__(self, options: Options = DEFAULT_OPTIONS, *, silence_s: float | None = None) -> None:
        self.options = options
        self.silence_s = silence_s
        self.hands: dict[int, Hand] = {}
        self.unsettled = 0  # items that are neither accepted nor given up
        self.freed_bytes = 0  # of payloads that are needed no more, since the host has counted them
        self.pace = Pace()
        self._inbox: list[tuple[int, Any]] = []
        self._effects: list[Effect] = []
        self._batches: dict[int, Batch] = {}  # by base
        self._ready = Queue()  # by their first number
        self._sent: dict[int, Parcel] = {}  # by ordinal
        self._later = Queue()  # by the time of their next attempt
        self.is_halted = False
        self._looked: float | None = None  # when it was looked who is silent
        self._turned = 0.0  # when there was a turn last
        self._ask_at = inf  # when somebody is to be asked
        self._overdue_s = OVERDUE_S  # after that it is looked for parcels though nobody seems to idle

    # ---- the contract of a machine -------------------------------------------------------------------------------

    def receive(self, peer: int, message: Any, now: float) -> None:
        """Note `message` of `peer`, 0 is the host itself: the next turn decides."""
        if (hand := self.hands.get(peer)) is not None:
            hand.heard = now
        if type(message) is not Beat:  # whose sender was heard, and that is all
            self._inbox.append((peer, message))

    def turn(self, now: float) -> list[Effect]:
        """Decide for all that was noted and all that is due. What is to go into the pipe is asked for by `next`."""
        inbox, self._inbox = self._inbox, []
        for peer, message in inbox:
            self._reactions[type(message)](self, peer, message, now)
        if self.silence_s is not None:
            self._give_up_silent(self.silence_s, now)
        while (due := self._later.first) is not None and due <= now:
            self._put(self._later.pop())
        if self._sent and self.hands:
            self._find_lost()
        self._recall(now)
        self._turned = now
        effects, self._effects = self._effects, []
        return effects

    def next(self, now: float) -> Run | None:
        """What is to go into the pipe next, if anything; `refused` if the pipe would not take it."""
        if not self.hands or self.is_halted or self._ready.first is None:
            return None
        parcel = self._ready.pop()
        batch = parcel.batch
        (offset, limit), *others = parcel.rest
        if limit - offset > self.batch_items:
            others.insert(0, (offset + self.batch_items, limit))
            limit = offset + self.batch_items
        for start, end in others:
            self._put(self._part(parcel, start, end))
        batch.sends += 1
        parcel.ordinal = batch.sends << BASE_BITS | batch.base
        parcel.sent_at = now
        self._sent[parcel.ordinal] = parcel
        task = Task(
            parcel.ordinal + offset, FN, batch.payload, self.options, limit - offset, offset, span=True,
            deliveries=parcel.deliveries, course=Course(inf, parcel.retries, parcel.log), attempt=parcel.attempt,
        )  # fmt: skip
        return Run(parcel.ordinal, [task])

    def refused(self, run: Run) -> None:
        """The pipe is full: that comes later."""
        parcel = self._sent.pop(run.first)
        parcel.batch.sends -= 1  # or asking again and again would use up the ordinals
        self._put(parcel)

    def next_deadline(self) -> float | None:
        """When `turn` is due even if nothing comes, or None."""
        times = [self._ask_at] if (due := self._later.first) is None else [self._ask_at, due]
        if self.silence_s is not None and self.hands and self._looked is not None:
            times.append(self._looked + self.silence_s / LOOKS)
        if self._sent and self.hands:
            times.append(self._turned + PIPE_S)
        return None if (first := min(times)) == inf else first

    def check(self) -> None:
        """Assert the invariants: each unsettled item is in one parcel, and each parcel in one place."""
        for batch in self._batches.values():
            batch.check()
        held = list(self._sent.items())
        for hand in self.hands.values():
            held += hand.parcels.items()
            assert all(parcel.peer == hand.id for parcel in hand.parcels.values()), "of another hand"
        assert all(parcel.rest and parcel.ordinal == ordinal for ordinal, parcel in held), "of what is done"
        queued = [parcel for parcel in (*self._ready, *self._later) if parcel.rest]
        assert all((parcel.peer, parcel.ordinal) == (-1, -1) for parcel in queued), "what is held waits"
        places = sorted([id(parcel) for _, parcel in held] + [id(parcel) for parcel in queued])
        parcels = sorted([id(parcel) for batch in self._batches.values() for parcel in batch.parcels])
        assert places == parcels, "a parcel is nowhere, or in two places"
        assert sum([batch.left for batch in self._batches.values()]) == self.unsettled, "an item is nowhere"

    # ---- for the host --------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """How many batches more should be ready: what follows is to be there when the pipe takes it."""
        slots = sum([hand.slots for hand in self.hands.values()])
        return 0 if self.is_halted else max(0, 2 + 2 * slots - len(self._ready))

    @property
    def batches(self) -> list[Feed]:
        """Those with inputs that are unsettled, as they were fed."""
        return [Feed(batch.base, batch.count, batch.payload) for batch in self._batches.values()]

    @property
    def batch_items(self) -> int:
        """How many inputs the next batch should have: about `BATCH_S` of work."""
        cost = self.pace.cost_s(FN)
        return 1 if cost is None else max(1, min(ITEMS_MAX, int(BATCH_S / cost)))

    @property
    def running(self) -> int:
        """How many items are with workers, or on their way to them."""
        held = sum([parcel.count for hand in self.hands.values() for parcel in hand.parcels.values()])
        return held + sum([parcel.count for parcel in self._sent.values()])

    def halt(self) -> None:
        """Hand out nothing more, and call back what has not started; what is given back stays unsettled."""
        self.is_halted = True

    def drop(self) -> None:
        """Forget every input, whatever becomes of it: nobody wants the outcomes any more."""
        self._inbox = [noted for noted in self._inbox if type(noted[1]) is not Feed]
        for hand in self.hands.values():
            if (hand.parcels or self._sent) and not (hand.asked or hand.leaving):
                self._ask(hand, self._turned)  # what it has not started would be in the way of what follows
            hand.parcels.clear()
        self._batches.clear()
        self._ready, self._later = Queue(), Queue()
        self._sent = {}
        self.unsettled = self.freed_bytes = 0
        self.is_halted = False

    # ---- inputs and outcomes -------------------------------------------------------------------------------------

    def _feed(self, _peer: int, message: Feed, now: float) -> None:
        batch = Batch(message.base, message.count, message.payload, now)
        self._batches[batch.base] = batch
        self.unsettled += batch.count
        parcel = Parcel(batch, 0, batch.count)
        batch.parcels.append(parcel)
        self._put(parcel)

    def _accepted(self, _peer: int, message: Accepted, _now: float) -> None:
        if (batch := self._batches.get(message.base)) is None:
            return
        left = batch.left
        for parcel in batch.parcels:
            removed = parcel.rest.remove(message.offset, message.offset + message.items)
            batch.left -= sum([limit - first for first, limit in removed])
            if not parcel.rest:
                self._take_out(parcel)
        self.unsettled -= left - batch.left
        batch.parcels = [parcel for parcel in batch.parcels if parcel.rest]
        if not batch.left:
            self.freed_bytes += len(batch.payload)
            del self._batches[batch.base]

    def _take_out(self, parcel: Parcel) -> None:
        """Out of the pipe or the hand where it is; the heaps pass over what is empty."""
        self._sent.pop(parcel.ordinal, None)
        if (hand := self.hands.get(parcel.peer)) is not None:
            hand.parcels.pop(parcel.ordinal, None)
        parcel.peer = parcel.ordinal = -1

    # ---- workers -------------------------------------------------------------------------------------------------

    def _slots(self, peer: int, message: Slots, now: float) -> None:
        if (hand := self.hands.get(peer)) is None:
            self.hands[peer] = Hand(peer, message.slots, now)
            self._looked = self._looked or now
        else:
            hand.slots = message.slots

    def _claim(self, peer: int, message: Claim, _now: float) -> None:
        for fn, items, seconds in message.pace:
            self.pace.note(fn, items, seconds)
        if (hand := self.hands.get(peer)) is None:
            return
        for ordinal in message.ordinals:
            if (parcel := self._sent.pop(ordinal, None)) is not None:
                parcel.peer = peer
                hand.parcels[ordinal] = parcel
                hand.barren = False

    def _held(self, peer: int, ordinal: int) -> Parcel | None:
        hand = self.hands.get(peer)
        return hand.parcels.get(ordinal) if hand is not None else None

    def _done(self, peer: int, message: Done, now: float) -> None:
        """Failures that ask for another attempt."""
        payloads = {(part.ordinal, part.offset): part.payload for part in message.parts}
        died = {(ordinal, offset): deliveries for ordinal, offset, deliveries in message.died}
        for ask in message.asks:
            parcel = self._held(peer, ask.ordinal)
            if parcel is not None and ask.item in parcel.rest:
                self._again(parcel, ask, payloads.get(ask.lease), died.get(ask.lease, 0), now)

    def _again(self, parcel: Parcel, ask: Ask, payload: Any, deliveries: int, now: float) -> None:
        """Another attempt for the item of `parcel` that `ask` names, or its failure is final."""
        rule, batch, item = self.options.retry or DEFAULT_RETRY, parcel.batch, ask.item
        number, retries, deliveries = batch.base + item, parcel.retries, max(parcel.deliveries, deliveries)
        due = now + (backoff_s(rule, retries, number) if ask.delay is None else ask.delay)
        late = rule.deadline is not None and due > batch.since + rule.deadline
        log = (*parcel.log, f"attempt {1 + retries + deliveries}: {ask.text}")[-LOG_MAX:]
        if retries >= rule.max or late:
            self._fail(batch, item, FAILED, payload, Course(inf, retries, log))
            return
        again = self._part(parcel, item, item + 1)
        again.deliveries, again.retries, again.log = deliveries, retries + 1, log
        self._put_off(again, due)

    def _ends(self, peer: int, message: Ends, _now: float) -> None:
        """Items that no worker has an outcome for: they have killed too many."""
        for end in message.ends:
            parcel = self._held(peer, end.ordinal)
            for item in range(end.offset, end.offset + end.items) if parcel is not None else ():
                if parcel is not None and item in parcel.rest:
                    self._fail(
                        parcel.batch, item, end.state, end.payload, Course(inf, parcel.retries, parcel.log)
                    )

    def _fail(self, batch: Batch, item: int, state: int, payload: Any, course: Course) -> None:
        task = Task(batch.base + item, FN, batch.payload, offset=item, course=course)
        self._effects.append(Settle(state, [task], [payload]))

    def _returned(self, peer: int, message: Returned, _now: float) -> None:
        hand = self.hands.get(peer)
        if hand is None:
            return
        if hand.asked:
            hand.asked = False
            hand.drained_at = hand.asked_at
        if hand.leaving:
            hand.drained_at = inf  # it has let go of the pipe
        died = {(ordinal, offset): deliveries for ordinal, offset, deliveries in message.died}
        hand.barren = not message.rest
        for ordinal, offset, items in message.rest:
            if (parcel := hand.parcels.get(ordinal)) is None:
                continue
            for first, limit in parcel.rest.remove(offset, offset + items):
                part = parcel.cut(first, limit)
                part.deliveries = max(part.deliveries, died.get((ordinal, first), 0))
                self._put(part)
            self._tidy(parcel)

    def _leaving(self, peer: int, _message: Leaving, _now: float) -> None:
        if (hand := self.hands.get(peer)) is not None:
            hand.leaving = True

    def _lost(self, peer: int, _message: Lost, now: float) -> None:
        if (hand := self.hands.pop(peer, None)) is None:
            return
        for parcel in hand.parcels.values():
            if hand.leaving:  # its last outcomes are on their way to the sink
                self._put_off(parcel, now + PIPE_S)
            else:
                self._put(parcel)

    def _give_up_silent(self, silence_s: float, now: float) -> None:
        """Those of which nothing has come; unless it was this process that stood still."""
        looked, self._looked = self._looked, now
        if looked is None or now - looked > silence_s / 2:
            for hand in self.hands.values():
                hand.heard = now
            return
        for hand in [hand for hand in self.hands.values() if now - hand.heard > silence_s]:
            self._lost(hand.id, Lost("nothing was heard of it"), now)
            self._effects.append(End(hand.id))

    # ---- what comes back -----------------------------------------------------------------------------------------

    def _find_lost(self) -> None:
        """What was sent well before every worker was last asked to read all that it has, and claimed by nobody."""
        drained = min(
            [hand.drained_at for hand in self.hands.values() if hand.drained_at < inf], default=-inf
        )
        for parcel in [parcel for parcel in self._sent.values() if parcel.sent_at + PIPE_S <= drained]:
            del self._sent[parcel.ordinal]
            self._put(parcel)
            self._overdue_s = OVERDUE_S

    def _recall(self, now: float) -> None:
        """Somebody idles: have the others give back what they have not started, and read what is in the pipe."""
        hands = [hand for hand in self.hands.values() if not hand.leaving]
        sent_at = next(iter(self._sent.values())).sent_at if self._sent else inf
        busy = not self.is_halted and (
            self._ready.first is not None or all(hand.count >= hand.slots for hand in hands)
        )
        pause_s = self._overdue_s if busy else PIPE_S
        self._ask_at = inf
        for hand in hands:
            if (due := hand.ask_at(sent_at, pause_s, busy=busy)) <= now:
                self._ask(hand, now)
                if busy:  # what comes back is sent again, and may be large: not too often in vain
                    self._overdue_s = min(OVERDUE_S_MAX, 2 * pause_s)
            else:
                self._ask_at = min(self._ask_at, due)

    def _ask(self, hand: Hand, now: float) -> None:
        hand.asked, hand.asked_at = True, now
        self._effects.append(Send(hand.id, Recall()))

    def _part(self, parcel: Parcel, first: int, limit: int) -> Parcel:
        """Items of `parcel` as a parcel of their own; one that is empty then is gone."""
        parcel.rest.remove(first, limit)
        part = parcel.cut(first, limit)
        self._tidy(parcel)
        return part

    def _tidy(self, parcel: Parcel) -> None:
        if not parcel.rest:
            parcel.batch.parcels.remove(parcel)
            self._take_out(parcel)

    def _put_off(self, parcel: Parcel, due: float) -> None:
        parcel.peer = parcel.ordinal = -1
        self._later.push(due, parcel)

    def _put(self, parcel: Parcel) -> None:
        parcel.peer = parcel.ordinal = -1
        self._ready.push(parcel.batch.base + next(iter(parcel.rest))[0], parcel)

    _reactions: ClassVar[dict[type, Callable[..., None]]] = {
        Feed: _feed,
        Accepted: _accepted,
        Slots: _slots,
        Claim: _claim,
        Done: _done,
        Ends: _ends,
        Returned: _returned,
        Leaving: _leaving,
        Lost: _lost,
    }
