"""Credit, measured in time: how much a peer may have in hand.

A child is sent about as much as it can run in a few milliseconds, so that short tasks stream and long ones go one by
one. A function that has no outcome yet goes one a slot. Measured on two cores: 128 tasks of 10 ms in one batch gave
78 % efficiency, a window of some milliseconds 99 %, and no-op tasks reach the rate of hand-made batches.
"""

from __future__ import annotations

WINDOW_S = 0.004  # a slot's credit, where there are few
FEW = 4  # slots
NODE_WINDOW_S = 0.020  # the same of a node: it is farther away
WEIGHED = 30  # entries in a hand, beyond two a slot, that are cheap enough to be weighed anew each time
SHORT_S = 0.1  # below this a peer may have two in hand a slot: one runs, one follows without a round trip
HAND_MAX = 4096  # tasks in hand, whatever they cost
HAND_BYTES_MAX = 8 << 20  # payload bytes in hand, beyond the first two tasks
STEAL_S = 0.001  # less work than this is not worth a recall
GRACE_S = 0.010  # a hand is overdue when it takes twice its estimate and this
COST_S_MIN = 2e-7
NETWORK_BYTES_S = (
    10e6  # what is on its way to a node may take so long: it has not begun, and is not late for it
)


def window_s(slots: int | None) -> float:
    """The credit of each of so many slots: the more they are, the later it is one's turn again.

    Measured with 16 children on 16 CPUs, that the dispatching thread has to share with them: of 1 ms tasks, as many as
    11.9 to 12.9 ideal children would do with a window of 4 ms, 13.6 to 14.1 with 8 ms, 14.2 to 14.5 with 16 ms.
    """
    return WINDOW_S * max(1.0, (slots or 0) / FEW)


class Pace:
    """What a task of each function costs, in seconds: a moving mean of what the workers measured."""

    def __init__(self) -> None:
        self._cost: dict[int, float] = {}
        self.cost_s = self._cost.get  # (function) -> seconds, or None before its first outcome
        self.waiting: set[int] = set()  # functions whose tasks wait for others
        self.awaiting: set[int] = set()  # functions of which a worker runs many at a time

    def note(self, fn: int, tasks: int, seconds: float) -> None:
        """`tasks` of `fn` took `seconds` together."""
        if fn in self.waiting:
            return
        cost = max(seconds / tasks, COST_S_MIN)
        old = self._cost.get(fn)
        if old is None:
            self._cost[fn] = cost
        else:
            # A batch of many tells more than a single task does; a single outlier moves the mean by a quarter.
            weight = 0.5 if tasks >= 16 else 0.25
            self._cost[fn] = old + weight * (cost - old)

    def costs(self) -> dict[int, float]:
        """What a task of each function costs that is known."""
        return dict(self._cost)

    def waits(self, fn: int) -> None:
        """A task of `fn` waits for others: from now on it goes one a slot, as if it had no outcome yet.

        What is in a hand behind such a task is older than what it waits for, and would begin before that. A task that
        begins in place of another waits as well, and so on: a recursion would run breadth first.
        """
        self.waiting.add(fn)
        self._cost.pop(fn, None)

    def forget(self, fn: int) -> None:
        """`fn` will not be seen again."""
        self.awaiting.discard(fn)
        self._cost.pop(fn, None)
