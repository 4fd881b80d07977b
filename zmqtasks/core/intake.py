"""What is submitted, as far as there is room."""

from __future__ import annotations

from copy import copy

from zmqtasks.core.join import Slot
from zmqtasks.core.ledger import Ledger
from zmqtasks.core.limits import Limits
from zmqtasks.core.retry import Retries
from zmqtasks.members import Closed
from zmqtasks.messages import CANCELLED, FULL, JOIN, NEW, Submit, Task


class Intake:
    """Takes tasks into the ledger. `queue_max`: how many may be unsettled at a time; None: any number."""

    def __init__(self, ledger: Ledger, retries: Retries, limits: Limits, queue_max: int | None) -> None:
        self.accepted: list[Task] = []  # in this turn, for the journal
        self._ledger = ledger
        self._retries = retries
        self._limits = limits
        self._queue_max = queue_max

    def submit(self, peer: int, message: Submit, now: float, *, nested: bool) -> None:
        """`nested`: a running task has submitted it, and it goes first."""
        ledger, refused = self._ledger, list[Task]()
        limited = self._queue_max is not None and not message.patient
        hot = not (nested or limited)
        done = looked = self._plain(message.tasks) if hot else 0
        if message.instead:
            self._stand_in(peer, message)
        for at, task in enumerate(message.tasks[done:], done):
            if at < done:
                continue
            if hot and at >= looked and task.parent is not None:
                looked = at + ledger.joins.neighbours(message.tasks, at)
                done = at + self._plain(message.tasks[at:looked], task.root)
                if at < done:
                    continue
            if task.fn == JOIN and type(task.payload) is Closed:
                ledger.close(task.payload, now)
                continue
            if task.state != NEW or task.id in ledger.tasks:
                continue  # said twice
            if limited and ledger.pending + task.count > (self._queue_max or 0):
                refused.append(task)
                if task.parent is not None:
                    ledger.deliver(ledger.joins.expect(task)[1], now)
            else:
                ledger.submitted += task.count
                ledger.counts[NEW] += task.count
                # A span may be cut before the turn is over: the journal gets it whole.
                self.accepted.append(task if task.count == 1 else copy(task))
                if task.options.timed:
                    self._limits.submitted(task)
                    self._retries.submitted(task, now)
                ledger.add(task, message.known, now, nested=nested)
        if refused:
            ledger.submitted += (items := sum(task.count for task in refused))
            ledger.counts[NEW] += items
            ledger.deliver(ledger.settle(CANCELLED, refused, [FULL] * len(refused)), now)

    def _plain(self, tasks: list[Task], root: int = -1) -> int:
        """Take in single tasks to be run at once, up to the first of another kind; how many."""
        ledger = self._ledger
        count = ledger.add_plain(tasks, root)
        if count:
            taken = tasks if count == len(tasks) else tasks[:count]
            self.accepted += taken
            if ledger.history is not None:
                ledger.history.plain(taken)
        return count

    def _stand_in(self, peer: int, message: Submit) -> None:
        """Of these tasks some are to end for those that have submitted them, and run at `peer`."""
        ledger = self._ledger
        for task in message.tasks:
            if task.state == NEW and (id_ := message.instead.get(task.id)) is not None:
                stand = ledger.joins.stand_in(task, id_, ledger.find(id_), peer)
                if stand is not None:
                    ledger.addresses.add(task.id, Slot(stand, 0))
