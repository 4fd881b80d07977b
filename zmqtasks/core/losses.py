"""A worker that is gone: what was running is blamed for it, the rest runs elsewhere.

What a child ran its host reads off a shared word. A node says what it has begun; what it had no time to say is not
blamed, but goes alone the next time, and is spoken of at once. So whatever ends its node each time is found out, and
what waited in the same hand is not.
"""

from __future__ import annotations

from zmqtasks.core.cancels import Cancels
from zmqtasks.core.effects import DELIVERED, Record
from zmqtasks.core.join import Delivery
from zmqtasks.core.ledger import Ledger
from zmqtasks.core.limits import ask_of, text_of
from zmqtasks.core.peer import Peer
from zmqtasks.core.retry import Retries
from zmqtasks.messages import CANCELLED, DEAD, FAILED, LEASED, Lost, Task


class Losses:
    """Gives back, or settles, what lost peers had in hand."""

    def __init__(self, ledger: Ledger, retries: Retries, cancels: Cancels) -> None:
        self._ledger = ledger
        self._retries = retries
        self._cancels = cancels

    def settle(self, peer: Peer, message: Lost, now: float) -> None:
        """`peer` is lost."""
        back = list(peer.hand.values())
        if not peer.is_node:  # of a node's hand nobody knows all that has begun
            for task in back:
                task.attempt -= 1
        work: list[Delivery] = []
        leases = peer.running if peer.is_node else [(message.ordinal, message.item)]
        if peer.awaits and message.ordinal < 0:  # none of them was at work, and any of them may have done it
            leases = [(task.ordinal, task.offset) for task in back]
        for lease in leases:
            if (culprit := self._find(back, *lease)) is not None:
                work += self._blame(peer, back, culprit, lease, message, now)
        self._ledger.requeue(back, f"its worker was lost: {message.reason}")
        self._ledger.deliver(work, now)

    def _find(self, back: list[Task], ordinal: int, item: int) -> Task | None:
        """The task of `back` that was running as `ordinal`; of a span, `item` cut out of it."""
        held = (each for each in back if each.ordinal == ordinal)
        task = next((each for each in held if not each.span or item < each.offset + each.count), None)
        if task is None:
            return None
        if not task.span:  # the claim has the item of an earlier span
            return task
        if item < task.offset:
            return None  # it was through, and the claim lags behind
        at = back.index(task)
        parts = [self._ledger.split(task, item - task.offset)] if item > task.offset else []
        culprit = self._ledger.split(task, 1) if task.count > 1 else task
        parts += [culprit] if culprit is task else [culprit, task]
        for part in parts:
            part.ordinal = ordinal  # others of them may have been running too
        back[at : at + 1] = parts
        return culprit

    def _blame(
        self, peer: Peer, back: list[Task], culprit: Task, lease: tuple[int, int], message: Lost, now: float
    ) -> list[Delivery]:
        culprit.attempt += not peer.is_node
        culprit.deliveries += not message.innocent
        state, reason = LEASED, message.reason
        if peer.ending == culprit.id:
            state, reason = CANCELLED, "cancelled while it was running"
            self._cancels.answer_ended(peer, culprit.id)
        elif peer.doomed == lease:
            culprit.deliveries -= not message.innocent  # it was not lost
            state, reason = FAILED, text_of(culprit)
        elif culprit.deliveries >= culprit.options.max_deliveries:
            state = DEAD
        if state == LEASED:
            if not message.innocent:
                self._ledger.records.append(Record(DELIVERED, [culprit]))
            return []
        back.remove(culprit)
        ask = ask_of(culprit) if state == FAILED else None
        if ask is not None and self._retries.again(culprit, ask, reason, now):
            return []
        return self._ledger.settle(state, [culprit], [reason])
