"""What has happened to tasks of late: for whoever asks how one has come to be where it is.

An entry is about a batch, as turns are, and holds ids alone: a task's record would keep its outcome alive. Neighbours
are a range, whatever they are many; others are an array. It is bounded: the oldest entries are forgotten, and what is
known of a task then begins in the midst of its life, which shows. To write costs some tens of nanoseconds a task, to
look something up goes through all of it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from zmqtasks.core.ranges import Ranges
from zmqtasks.messages import (
    FACE,
    FAILED,
    JOIN,
    LEASED,
    NEW,
    QUEUED,
    SCHEDULED,
    SUCCEEDED,
    UPSTREAM_FAILED,
    WAITING,
    Task,
)

NBYTES_MAX = 8 << 20
PIECES_MAX = 50_000  # of workflows: neighbours among their nodes
REASON_MAX = 200  # characters
_ENTRY_BYTES = 200  # what an entry takes beside an array
_ID_BYTES = 8
_PEERS_MAX = 1000
_RUNS_MAX = 64  # to a peer, of which outcomes may be on their way
_CUTS_MAX = 16  # how often a span is cut within one that came before, so that its place is still known

_ACCEPTED = "accepted"
_TAKEN_IN = {
    QUEUED: _ACCEPTED,
    WAITING: "accepted: it waits for others",
    SCHEDULED: "accepted: its time has not come",
}


class Happened(NamedTuple):
    """`items` neighbours from `id` on came into `state`, out of `was` (NEW: they were submitted), because of `reason`.

    `at`: in the host's seconds. `place`: the peer that had them then, or was given them; -1: none. `attempt`: how often
    each had begun, this time included.
    """

    at: float
    id: int
    items: int
    was: int
    state: int
    place: int
    attempt: int
    reason: str


class Node(NamedTuple):
    """Of a workflow: `items` tasks of the function `fn`, or joins, with neighbouring ids from `id` on."""

    fn: int
    id: int
    items: int


# As `Happened`: at, was, state, place, first id, items; the ids where they are no neighbours; attempts and reasons: of
# all of them, or of each.
_Entry = tuple[float, int, int, int, int, int, "array[int] | None", "int | array[int]", "str | list[str]"]


class History:
    """The ring, and which tasks belong to which workflow.

    `cluster_id`: what ids begin with where reasons name them. `nbytes_max`: of the ring, about.
    """

    def __init__(self, cluster_id: str = "", nbytes_max: int = NBYTES_MAX) -> None:
        self.nbytes = 0
        self._cluster_id = cluster_id
        self._nbytes_max = nbytes_max
        self._now = 0.0
        self._entries: deque[_Entry] = deque()
        self._hands: dict[int, deque[tuple[int, int, int]]] = {}  # by peer: ordinal, id, how many neighbours
        self._again = False  # some tasks may have begun more than once
        self._fresh: list[int] = []  # single tasks that were taken in one after the other, not yet an entry
        self._fresh_state = QUEUED
        self._nodes: dict[int, list[list[int]]] = {}  # by root: [function, first id, how many]
        self._pieces = 0

    # ---- writing -------------------------------------------------------------------------------------------------

    def begin(self, now: float, *, empty: bool) -> None:
        """A turn begins; `empty`: there are no tasks."""
        if self._fresh:
            self._flush()
        self._now = now
        if empty:
            self._again = False

    def plain(self, tasks: list[Task]) -> None:
        """Single tasks were taken in, and can run: all of one workflow, or of none."""
        if self._fresh:
            self._flush()
        if tasks[0].root >= 0:
            for task in tasks:
                self._belongs(task)
        if len(tasks) == 1:
            self._add(NEW, QUEUED, -1, tasks[0].id, 1, None, 0, _ACCEPTED)
        else:
            self._ids(NEW, QUEUED, -1, [task.id for task in tasks], 0, _ACCEPTED)

    def accepted(self, task: Task) -> None:
        """A task, a span or a join is taken in."""
        waits = task.needs or task.fn == JOIN
        state = WAITING if waits else SCHEDULED if task.options.countdown else QUEUED
        if task.root >= 0:
            self._belongs(task)
        if task.count > 1:
            self._flush()
            self._add(NEW, state, -1, task.id, task.count, None, 0, _TAKEN_IN[state])
            return
        if state != self._fresh_state:
            self._flush()
            self._fresh_state = state
        self._fresh.append(task.id)

    def given(self, peer: int, first: int, tasks: list[Task], *, spans: bool) -> None:
        """`peer` has them in hand now, as `first` and the ordinals after it; `spans`: there may be some among them."""
        if self._fresh:
            self._flush()
        if len(tasks) == 1:
            task = tasks[0]
            self._add(QUEUED, LEASED, peer, task.id, task.count, None, task.attempt, "")
        elif spans or self._again:
            self._put(QUEUED, LEASED, peer, tasks, "")
        elif self._ids(QUEUED, LEASED, peer, [task.id for task in tasks], 1, ""):
            hand = self._hands.get(peer)
            if hand is None:
                if len(self._hands) >= _PEERS_MAX:
                    self._hands.clear()
                hand = self._hands[peer] = deque(maxlen=_RUNS_MAX)
            hand.append((first, tasks[0].id, len(tasks)))

    def moved(self, tasks: Sequence[Task], was: int, state: int, reason: str) -> None:
        """These have come from one state to another that is not final."""
        self._flush()
        self._again = self._again or was == LEASED
        self._put(was, state, -1, tasks, reason[:REASON_MAX])

    def succeeded(self, peer: int, first: int, tasks: list[Task]) -> None:
        """Single tasks have, which `peer` had in hand as `first` and the ordinals after it."""
        count = len(tasks)
        if count > 1 and not self._again and (hand := self._hands.get(peer)):
            for run in hand:
                ordinal, id_, items = run
                if ordinal <= first and first + count <= ordinal + items:  # that saves the looking at each
                    if self._fresh:
                        self._flush()
                    self._add(LEASED, SUCCEEDED, -1, id_ + first - ordinal, count, None, 1, "")
                    if first + count == ordinal + items:
                        hand.remove(run)
                    return
        self.settled(SUCCEEDED, tasks, [])

    def settled(self, state: int, tasks: list[Task], payloads: list[Any]) -> None:
        """These are about to end; they still stand where they were."""
        if self._fresh:
            self._flush()
        if len(tasks) == 1:
            task = tasks[0]
            reason = "" if state == SUCCEEDED else self._reason(task, state, payloads[0])
            self._add(task.state, state, -1, task.id, task.count, None, task.attempt, reason)
            return
        reasons: str | list[str] = ""
        if state != SUCCEEDED:
            each = [self._reason(task, state, payload) for task, payload in zip(tasks, payloads, strict=True)]
            reasons = each if each.count(each[0]) < len(each) else each[0]
        was = tasks[0].state
        if any(task.state != was for task in tasks):
            for at, task in enumerate(tasks):
                self._put(task.state, state, -1, [task], _at(reasons, at))
        else:
            self._put(was, state, -1, tasks, reasons)

    def _reason(self, task: Task, state: int, payload: Any) -> str:
        """Why a task has ended so, as far as it can be said without opening what it raised."""
        if isinstance(payload, str):
            return str(payload)[:REASON_MAX]
        if state == UPSTREAM_FAILED and type(payload) is tuple:
            id_, other, _ = payload
            return f"task {self._cluster_id}-{id_} is {FACE[other]}"
        if state == FAILED:
            return "a member has failed" if task.fn == JOIN else "it raised an exception"
        return ""

    def _put(self, was: int, state: int, place: int, tasks: Sequence[Task], reasons: str | list[str]) -> None:
        """Tasks of any kind."""
        if any(task.count > 1 for task in tasks):
            for at, task in enumerate(tasks):
                self._add(was, state, place, task.id, task.count, None, task.attempt, _at(reasons, at))
        elif tasks:
            each = [task.attempt for task in tasks]
            attempts = each[0] if each.count(each[0]) == len(each) else array("q", each)
            self._ids(was, state, place, [task.id for task in tasks], attempts, reasons)

    def _ids(
        self, was: int, state: int, place: int, ids: list[int], attempts: int | array[int], reasons: str | list[str]
    ) -> bool:  # fmt: skip
        """Single tasks; whether they are neighbours."""
        first, count = ids[0], len(ids)
        alike = type(attempts) is int and type(reasons) is str
        if alike and ids[-1] - first == count - 1 and ids == list(range(first, first + count)):
            self._add(was, state, place, first, count, None, attempts, reasons)
            return True
        self._add(was, state, place, first, count, array("q", ids), attempts, reasons)
        return False

    def _add(
        self, was: int, state: int, place: int, first: int, count: int, ids: array[int] | None,
        attempts: int | array[int], reasons: str | list[str],
    ) -> None:  # fmt: skip
        entry = (self._now, was, state, place, first, count, ids, attempts, reasons)
        self._entries.append(entry)
        self.nbytes += _ENTRY_BYTES if ids is None else _nbytes(entry)
        while self.nbytes > self._nbytes_max:
            self.nbytes -= _nbytes(self._entries.popleft())

    def _flush(self) -> None:
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            self._ids(NEW, self._fresh_state, -1, fresh, 0, _TAKEN_IN[self._fresh_state])

    def _belongs(self, task: Task) -> None:
        root = task.root
        pieces = self._nodes.get(root)
        if pieces is None:
            pieces = self._nodes[root] = []
        if pieces and pieces[-1][0] == task.fn and pieces[-1][1] + pieces[-1][2] == task.id:
            pieces[-1][2] += task.count
            return
        pieces.append([task.fn, task.id, task.count])
        self._pieces += 1
        while self._pieces > PIECES_MAX and len(self._nodes) > 1:
            oldest = next(iter(self._nodes))
            if oldest == root:
                break
            self._pieces -= len(self._nodes.pop(oldest))

    # ---- reading -------------------------------------------------------------------------------------------------

    def nodes(self, root: int) -> list[Node]:
        """The tasks and joins of the workflow named by `root`, in the order of their submits; of what is none: none."""
        return [Node(*piece) for piece in self._nodes.get(root, ())]

    def of(self, wanted: Ranges) -> list[Happened]:
        """What has happened to the tasks with these ids, in its order."""
        self._flush()
        found: list[Happened] = []
        bounds = list(wanted)
        if not bounds:
            return found
        hands = _Hands()
        for each in self._found(wanted, bounds[0][0], bounds[-1][1]):
            if each.state == LEASED:
                hands.put(each)
            was_in_hand = each.was == LEASED
            found.append(each._replace(place=hands.of(each.id)) if was_in_hand else each)
        return found

    def _found(self, wanted: Ranges, low: int, high: int) -> Iterator[Happened]:
        for at, was, state, place, first, count, ids, attempts, reasons in self._entries:
            if ids is None:
                if first < high and first + count > low:
                    attempt, reason = _at(attempts, 0), _at(reasons, 0)
                    for start, end in wanted.within(first, first + count):
                        yield Happened(at, start, end - start, was, state, place, attempt, reason)
                continue
            if high - low == 1 and low not in ids:
                continue
            for index, id_ in [(index, id_) for index, id_ in enumerate(ids) if low <= id_ < high]:
                if id_ in wanted:
                    attempt, reason = _at(attempts, index), _at(reasons, index)
                    yield Happened(at, id_, 1, was, state, place, attempt, reason)

    @property
    def begins(self) -> float:
        """Since when nothing is forgotten, as far as there was anything."""
        self._flush()
        return self._entries[0][0] if self._entries else self._now

    def workflow_of(self, id_: int) -> tuple[int, Node] | None:
        """The workflow that a task is known to be of, by its root, and what else it is; None where it is of none."""
        for root, pieces in self._nodes.items():
            for piece in pieces:
                if piece[1] <= id_ < piece[1] + piece[2]:
                    return root, Node(*piece)
        return None


class _Hands:
    """Which peer had what: ranges of ids by their first."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._given: list[Happened] = []

    def put(self, given: Happened) -> None:
        """It came into a hand."""
        at = bisect_left(self._firsts, given.id)
        if self._firsts[at : at + 1] == [given.id]:
            self._given[at] = given
        else:
            self._firsts.insert(at, given.id)
            self._given.insert(at, given)

    def of(self, id_: int) -> int:
        """The peer that had `id_`; -1 if that is forgotten."""
        at = bisect_right(self._firsts, id_)
        for given in reversed(self._given[max(0, at - _CUTS_MAX) : at]):
            if id_ < given.id + given.items:
                return given.place
        return -1


def _nbytes(entry: _Entry) -> int:
    *_, items, ids, attempts, reasons = entry
    if ids is None:
        return _ENTRY_BYTES
    more = items * _ID_BYTES
    if type(attempts) is not int:
        more += items * _ID_BYTES
    if type(reasons) is not str:
        more += sum(map(len, reasons)) + items * _ID_BYTES
    return _ENTRY_BYTES + more


def _at(values: Any, index: int) -> Any:
    """The value at an index, or the one of all."""
    return values if type(values) in (int, str) else values[index]
