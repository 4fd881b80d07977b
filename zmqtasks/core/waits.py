"""Workers whose task waits for other tasks: they take nothing, and occupy no slot."""

from __future__ import annotations

from zmqtasks.core.cancels import Cancels
from zmqtasks.core.effects import Effect, Send
from zmqtasks.core.ledger import Ledger
from zmqtasks.core.peer import Peer
from zmqtasks.messages import CANCELLED, LEASED, Deep, Waiting

WAITING_MAX = 64  # peers whose task may wait for others at a time


class Waits:
    """Who waits, and for what."""

    def __init__(self, ledger: Ledger, peers: dict[int, Peer], cancels: Cancels, sends: list[Effect]) -> None:
        self.elsewhere: set[int] = set()  # tasks that workers here wait for, pending in another dispatcher
        self._ledger = ledger
        self._peers = peers
        self._cancels = cancels
        self._sends = sends

    @property
    def count(self) -> int:
        """How many wait."""
        return sum(1 for peer in self._peers.values() if peer.waiting)

    def begin(self, peer: Peer, message: Waiting, now: float) -> None:
        """`peer` says that its task waits."""
        if message.on >= 0 and not self._is_pending(message.on):
            return  # what it waits for is settled: it goes on
        if self.count >= WAITING_MAX:
            self._sends.append(Send(peer.id, Deep()))
            self._drop_unawaited(message.on, now)
            return
        peer.waiting = True
        peer.waits_on = message.on
        peer.due = None
        if peer.items > peer.slots and not peer.asked:
            self._cancels.recall(peer)  # dealt before this was heard: it would wait with the peer

    def resume_settled(self) -> None:
        """Those whose wait is over go on, before they say so."""
        for peer in self._peers.values():
            if peer.waiting and peer.waits_on >= 0 and not self._is_pending(peer.waits_on):
                peer.waiting = False

    def check(self) -> None:
        """Assert the invariant."""
        assert self.count <= WAITING_MAX, "too many wait"

    def _is_pending(self, id_: int) -> bool:
        return id_ in self.elsewhere or self._ledger.find(id_) is not None

    def _drop_unawaited(self, id_: int, now: float) -> None:
        """A recursion that is refused ends here: what nobody may wait for would only carry it on."""
        task = self._ledger.find(id_)
        if task is not None and task.state != LEASED:
            single = self._ledger.single(task, id_)
            self._ledger.deliver(self._ledger.settle(CANCELLED, [single], ["the recursion is too deep"]), now)
