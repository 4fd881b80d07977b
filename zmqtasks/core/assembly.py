"""What has come of a join's members, until all have ended, or one of them ends it.

Members have places, and come in pieces: a piece is one task, or neighbours of a span. So a join of a million costs as
many entries as there were pieces.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from zmqtasks.members import Gathered, Lapse, Members
from zmqtasks.messages import CANCELLED, FAILED, FULL, SUCCEEDED, UNHURT, UPSTREAM_FAILED, Task, Value

Outcome = tuple[int, Any]  # a state that is final, and its payload

LEFT = "what it is a part of has ended"
MISFIT = "its members are not those that it was said to have"
NESTED_MAX = 200  # lists within lists: whoever carries them, or opens them, goes down as deep
TOO_DEEP = f"groups are nested too deep in it: {NESTED_MAX} levels is the most"
ABANDONED = "whoever was to submit its members is gone"


class Assembly:
    """The members of the join `body`."""

    __slots__ = ("body", "count", "entries", "failure", "have", "held", "is_over", "ranges", "there")

    def __init__(self, join: Task) -> None:
        members: Members = join.payload
        self.body = join
        self.count = members.count  # None: more will come
        self.failure = members.failure
        self.held = bool(join.needs)  # it waits for other tasks as well
        self.is_over = False
        self.there = self.have = 0  # members that were submitted; that have ended
        self.ranges: list[tuple[int, int]] = []  # of their ids: first, how many
        self.entries: list[tuple[int, int, Value | Lapse]] = []  # index, how many, outcome

    def expect(self, first: int, items: int) -> bool:
        """Members with so many ids from `first` on; False if that is more than there were to be."""
        self.there += items
        if self.ranges and sum(self.ranges[-1]) == first:
            first, before = self.ranges.pop()
            items += before
        self.ranges.append((first, items))
        return self.count is None or self.there <= self.count

    def close(self, count: int) -> Outcome | None:
        """No more will come: the join's outcome, if that ends it."""
        if self.is_over or self.count is not None:
            return None  # said twice
        if count != self.there:
            return self.misfit()
        self.count = count
        return self.outcome()

    def take(self, member: Task, state: int, payload: Any) -> Outcome | None:
        """A member has ended: the join's outcome, if that ends it."""
        if self.is_over:
            return None
        index, items = (member.parent or (0, 0))[1], member.count
        self.have += items
        if state == SUCCEEDED:
            value = Value(payload, 0, items) if member.span else Value(payload)
            self.entries.append((index, items, value))
        elif self.failure == "fail_fast":
            return self._end(*mirrored(member.id, state, payload))
        else:
            self.entries += [(index + at, 1, Lapse(member.id + at, state, payload)) for at in range(items)]
        return self.outcome() if self.have == self.count else None

    def outcome(self) -> Outcome | None:
        """The join's, if all have ended."""
        if self.is_over or self.held or self.have != self.count:
            return None
        entries, at = self.entries, 0
        entries.sort(key=itemgetter(0))
        for index, items, _ in entries:
            if index != at:
                return self._end(CANCELLED, MISFIT)
            at += items
        values = [value for _, _, value in entries]
        if self.failure == "wait" and (lapses := [value for value in values if type(value) is Lapse]):
            return self._gathered(FAILED, Gathered([*lapses]))
        return self._gathered(SUCCEEDED, Gathered(values))

    def _gathered(self, state: int, gathered: Gathered) -> Outcome:
        if gathered.depth > NESTED_MAX:
            return self._end(CANCELLED, TOO_DEEP)
        return self._end(state, gathered)

    def misfit(self) -> Outcome:
        """It ends: there are more members than it was said to have, or fewer."""
        return self._end(CANCELLED, MISFIT)

    def abandoned(self) -> Outcome:
        """It ends: nobody is left to submit the others."""
        return self._end(CANCELLED, ABANDONED)

    def _end(self, state: int, payload: Any) -> Outcome:
        if self.is_over:
            raise AssertionError(f"join {self.body.id} ends for the second time")
        self.is_over = True
        return state, payload


def mirrored(id_: int, state: int, payload: Any) -> Outcome:
    """How a join ends that fails with its member `id_`."""
    if state == CANCELLED and payload not in (UNHURT, FULL):
        return UPSTREAM_FAILED, (id_, CANCELLED, payload)
    return state, payload


def upstream(id_: int, state: int, payload: Any) -> Outcome:
    """How a task ends that needs `id_`, which did not succeed: whatever is between, it names what failed first."""
    if state == CANCELLED and payload == UNHURT:
        return state, payload
    if state == UPSTREAM_FAILED and type(payload) is tuple:
        return state, payload
    return UPSTREAM_FAILED, (id_, state, payload)


def caught(id_: int, state: int, payload: Any) -> Outcome:
    """How a join ends that waits for `id_` to fail."""
    if state in (SUCCEEDED, CANCELLED):
        return CANCELLED, UNHURT
    return SUCCEEDED, Gathered([Lapse(id_, state, payload)])
