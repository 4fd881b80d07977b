"""What a workflow no longer needs, once a part of it has ended without success.

A join forsakes its members, a task that never ran forsakes what it needed, unless others of its workflow need that too.
What has not started is cancelled, and forsakes in turn. What runs goes on, unheard, and is not run again.
"""

from __future__ import annotations

from zmqtasks.core.assembly import LEFT
from zmqtasks.core.cancels import Cancels
from zmqtasks.core.joins import UNHEARD
from zmqtasks.core.ledger import Ledger
from zmqtasks.messages import CANCELLED, LEASED, WAITING, Cancel, Task


class Forsaking:
    """Looks after what tasks leave behind. No recursion, for chains may be long."""

    def __init__(self, ledger: Ledger, cancels: Cancels) -> None:
        self._ledger = ledger
        self._cancels = cancels

    def settle(self, now: float) -> None:
        """Once a turn, when all that came is taken in."""
        ledger, joins = self._ledger, self._ledger.joins
        while joins.left or joins.due:
            due, joins.due = joins.due, []
            ledger.deliver(due, now)
            if not joins.left:
                continue
            task, ranges = joins.left.pop()
            hard = task is not None and task.id in joins.ended_hard
            self._forsake(
                [each for first, items in ranges for each in ledger.within(first, items)], now, hard=hard
            )
            if task is not None and task.root >= 0:
                self._forsake(self._unneeded(task), now, hard=hard)
        joins.ended_hard.clear()

    def _unneeded(self, task: Task) -> list[Task]:
        """Of what `task` needed that which nothing else in its workflow waits for."""
        ledger = self._ledger
        found: dict[int, Task] = {}
        for id_ in task.needs:
            need = ledger.find(id_)
            if need is None or need.root != task.root:
                continue
            if need.parent is not None and need.parent[0] in ledger.joins.assemblies:
                continue
            bodies = [slot.join.body for slot in ledger.addresses.waiting(id_)]
            if not any(each and each.state == WAITING and each.root == task.root for each in bodies):
                found[id_] = need if need.state == LEASED else ledger.single(need, id_)
        return list(found.values())

    def _forsake(self, tasks: list[Task], now: float, *, hard: bool) -> None:
        """`hard`: what runs is ended."""
        ledger, joins = self._ledger, self._ledger.joins
        if hard:
            joins.ended_hard.update(task.id for task in tasks)
        if waiting := [task for task in tasks if task.state != LEASED]:
            ledger.deliver(ledger.settle(CANCELLED, waiting, [LEFT] * len(waiting)), now)
        for task in [task for task in tasks if task.state == LEASED]:
            task.root, task.parent = UNHEARD, None
            first, items = task.id, task.count
            if hard:
                for id_ in range(first, first + items):
                    self._cancels.ask(Cancel(id_, terminate=True, token=None), now)
            else:
                self._cancels.ask(Cancel(first, terminate=False, token=None, count=items), now)
