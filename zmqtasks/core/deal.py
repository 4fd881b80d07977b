"""Who is given what: the queue's head to the peers that have credit."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from zmqtasks.core.attempts import is_suspect
from zmqtasks.core.ledger import Ledger
from zmqtasks.core.pace import HAND_BYTES_MAX, HAND_MAX, SHORT_S, STEAL_S, WEIGHED, Pace, window_s
from zmqtasks.core.peer import Peer, size
from zmqtasks.messages import LEASED, QUEUED, Run, Task


class Dealer:
    """Deals what is ready. `slots`: how many peers may be at work at a time, not counting those that wait."""

    def __init__(self, ledger: Ledger, slots: int | None) -> None:
        self.ledger = ledger
        self.slots = slots
        self.pace = Pace()
        self.window_s = window_s(slots)  # of a slot

    def cost_s(self, task: Task, items: int) -> float:
        """The estimate for `items` of `task`, 0 where its function is not known yet."""
        return (self.pace.cost_s(task.fn) or 0.0) * items

    def deal(self, peers: Collection[Peer], now: float) -> list[tuple[Peer, Run]]:
        """Take tasks from the queue into hands, the emptiest first; each is given its share, so that all have some."""
        ready = self.ledger.ready
        runs: list[tuple[Peer, Run]] = []
        full: set[int] = (
            set()
        )  # lanes of which something is left: who takes them is given nothing that is less urgent
        for lane, floor in ready.order():
            takers = self._takers(peers, lane)
            if full:
                takers = [peer for peer in takers if not any(peer.accepts(other) for other in full)]
            weights = [max(0, peer.slots - peer.items) for peer in takers]
            if sum(weights) < ready.size:  # more than there are free slots
                weights = [peer.slots for peer in takers]
            total = sum(weights)
            for peer, weight in zip(takers, weights, strict=True):
                if not (before := ready.size):
                    break
                share = -(-before * weight // total) if total else 0
                total -= weight
                first = peer.next_ordinal
                if share and (tasks := self._fill(peer, lane, floor, share)):
                    moved = before - ready.size
                    self.ledger.counts[QUEUED] -= moved
                    self.ledger.counts[LEASED] += moved
                    peer.watch(now)
                    runs.append((peer, Run(first, tasks)))
            if (level := ready.level(lane)) is not None and level[0].options.priority >= floor:
                full.add(lane)
        return runs

    def _takers(self, peers: Collection[Peer], lane: int) -> list[Peer]:
        """The peers that take what is in `lane` and have room, those with a free slot and the emptiest first."""
        # What awaits goes to peers that run many of the kind at a time: as many as there are slots, beside the others.
        head = self.ledger.ready.level(lane)
        many = head is not None and head[0].fn in self.pace.awaiting
        fresh = not many or self.slots is None or sum(peer.awaits for peer in peers) < self.slots
        takers = [
            peer
            for peer in peers
            if (many if peer.awaits else fresh)
            and peer.open()
            and (peer.lanes is None or lane in peer.lanes)
            and (
                peer.items < peer.slots
                or peer.hand_s < peer.window_s * peer.slots
                or (peer.items < 2 * peer.slots and peer.hand_s < SHORT_S * peer.slots)
            )
        ]
        takers.sort(key=lambda peer: (peer.items >= peer.slots, peer.hand_s / peer.slots))
        if self.slots is None:
            return takers
        room = self.slots - at_work(peers)
        if room < 0:  # those that had waited are back: nothing more until some are through
            return []
        idle = [peer for peer in takers if not (peer.hand or peer.awaits)]
        return idle[:room] + [peer for peer in takers if peer.hand or peer.awaits]

    def _fill(self, peer: Peer, lane: int, floor: int, share: int) -> list[Task]:
        """Up to `share` items from the head of `lane`, of priority `floor` at least, into the hand of `peer`."""
        ready = self.ledger.ready
        tasks: list[Task] = []
        while share > 0 and (level := ready.level(lane)) is not None:
            task = level[0]
            if task.options.priority < floor or (peer.awaits and task.fn not in self.pace.awaiting):
                break
            cost = self.pace.cost_s(task.fn)
            if cost is None or (task.attempt and is_suspect(task)):
                room, cost = peer.slots - peer.items, cost or SHORT_S
                share = min(share, room)  # nothing follows it, of whatever function
            else:
                ahead = (2 if cost < SHORT_S else 1) * peer.slots - peer.items
                room = max(ahead, int((peer.window_s * peer.slots - peer.hand_s) / cost))
            room = min(room, share, HAND_MAX - peer.items)
            if room <= 0 or (peer.bytes + size(task) > HAND_BYTES_MAX and peer.items >= 2 * peer.slots):
                break
            if task.count > 1:
                if room < task.count:
                    task = self.ledger.split(task, room)
                else:
                    level.popleft()
                taken = [task]
            else:
                taken = _run_of_singles(level, room, HAND_BYTES_MAX - peer.bytes)
            peer.give(taken, cost)
            items = sum([task.count for task in taken])
            ready.size -= items
            share -= items
            tasks += taken
        return tasks

    def weigh(self, peer: Peer, *, whole: bool = False) -> None:
        """Estimate a short hand (`whole`: any) anew: what was added at one price and taken off at another drifts."""
        if whole or len(peer.hand) <= 2 * peer.slots + WEIGHED:
            cost_s, counted_s = self.pace.cost_s, peer.counted_s
            peer.hand_s = sum(
                [counted_s(cost_s(task.fn) or SHORT_S) * task.count for task in peer.hand.values()]
            )

    def overdue(self, peers: Iterable[Peer], now: float) -> list[Peer]:
        """Those whose running task has outlasted the credit: what has not started must come back."""
        late = [peer for peer in peers if peer.due is not None and peer.due <= now]
        for peer in late:
            peer.due = None
            peer.overdue = True
        return [peer for peer in late if not peer.asked]

    def steal(self, peers: Iterable[Peer]) -> list[Peer]:
        """Whom to recall from: another idles, or something of a higher priority waits."""
        ready = self.ledger.ready
        rich = [peer for peer in peers if self._can_return(peer)]
        if not rich:
            return []
        urgent = set()
        for lane in ready.lanes() if ready.size else ():
            if (level := ready.level(lane)) is not None:
                priority = level[0].options.priority
                urgent |= {
                    peer.id
                    for peer in rich
                    if not peer.waiting and peer.accepts(lane) and peer.holds_below(priority)
                }
        choosy = any(peer.lanes is not None for peer in peers)
        if urgent or (ready.size and not choosy):
            return [peer for peer in rich if peer.id in urgent]
        idle = [peer for peer in peers if peer.items < peer.slots and peer.open() and not peer.awaits]
        if choosy:
            rich = [peer for peer in rich if peer.holds_for(idle)]
        room = len(idle) if self.slots is None else min(len(idle), self.slots - at_work(peers))
        rich.sort(key=lambda peer: peer.hand_s, reverse=True)
        return rich[: max(0, room)]

    @staticmethod
    def _can_return(peer: Peer) -> bool:
        """Whether it holds enough that has not started to be worth the asking."""
        if peer.asked or peer.barren or peer.ending >= 0 or peer.items <= peer.slots:
            return False
        return peer.overdue or peer.hand_s * (peer.items - peer.slots) / peer.items >= STEAL_S


def at_work(peers: Iterable[Peer]) -> int:
    """How many have something to do, and occupy a slot: no task of theirs waits, or awaits."""
    return sum(1 for peer in peers if peer.hand and not (peer.waiting or peer.awaits))


def _run_of_singles(level: deque[Task], items: int, nbytes: int) -> list[Task]:
    """Up to `items` single tasks of one function off the head of `level`, of about `nbytes` together; at least one."""
    fn = level[0].fn
    taken: list[Task] = []
    while (level and items > 0 and nbytes >= 0) or not taken:
        task = level.popleft()
        if task.fn != fn or task.count > 1:
            level.appendleft(task)
            break
        if task.state == QUEUED:  # else it was cancelled
            taken.append(task)
            items -= 1
            nbytes -= len(task.payload) if not task.inputs else size(task)
    return taken
