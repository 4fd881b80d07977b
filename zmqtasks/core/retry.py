"""Whether and when a failed task is run again.

That the failure is one to retry was decided where the exception is. Here it is counted, and its time is chosen: the
chance in it comes from the task's id and the attempt, so that nothing random is in the core, and tasks that fail
together still spread out.
"""

from __future__ import annotations

from math import inf
from typing import Any

from msgspec.structs import replace

from zmqtasks.core.effects import RETRIED, Record
from zmqtasks.core.joins import UNHEARD
from zmqtasks.core.ledger import Ledger
from zmqtasks.messages import LEASED, RETRYING, WAITING, Ask, Course, Part, Task
from zmqtasks.options import DEFAULT_RETRY, RetryRule

LOG_MAX = 20  # how many failed attempts of a task are remembered
_MASK = (1 << 64) - 1


def chance(id_: int, attempt: int) -> float:
    """A number from 0 up to 1, the same for the same arguments, as if by chance for others (SplitMix64)."""
    mixed = (id_ * 0x9E3779B97F4A7C15 + attempt * 0xD1B54A32D192ED03) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)


def backoff_s(rule: RetryRule, retries: int, id_: int) -> float:
    """How long task `id_`, retried `retries` times before, waits for the next attempt."""
    try:
        full = min(rule.max_delay, rule.delay * rule.factor**retries)
    except OverflowError:
        full = rule.max_delay if rule.delay else 0.0
    if rule.jitter == "full":
        return full * chance(id_, retries)
    if rule.jitter == "equal":
        return full * (0.5 + chance(id_, retries) / 2)
    return full


class Retries:
    """Sends failed tasks round again. `here`: or leaves that to another dispatcher, and says that it is asked for."""

    def __init__(self, ledger: Ledger, *, here: bool) -> None:
        self._ledger = ledger
        self._here = here

    def submitted(self, task: Task, now: float) -> None:
        """A task that may be retried, or may expire."""
        if self._here:
            task.course = Course(now)
            self._ledger.starts.watch(task)

    def sift(
        self, ordinals: list[int], outcomes: list[tuple[Task, Any, bool]], asks: list[Ask], now: float
    ) -> list[tuple[Task, Any, bool]]:
        """Of the outcomes (task, payload, failed) of what was out under `ordinals` those that are final."""
        asked = {ask.ordinal: ask for ask in asks if ask.item < 0}
        return [
            (task, payload, failed)
            for ordinal, (task, payload, failed) in zip(ordinals, outcomes, strict=True)
            if not (failed and ordinal in asked and self.again(task, asked[ordinal], payload, now))
        ]

    def took(self, task: Task, part: Part, asks: list[Ask], now: float) -> bool:
        """Whether `task`, which failed as `part`, is one of those that ask, and waits for another attempt now."""
        return any(
            self.again(task, ask, part.payload, now)
            for ask in asks
            if ask.lease == (part.ordinal, part.offset)
        )

    def again(self, task: Task, ask: Ask, payload: Any, now: float) -> bool:
        """Whether `task`, in no hand any more, waits for another attempt now, or for another task to end in its place.

        Else `payload` is its outcome.
        """
        if not self._here:
            task.ask = ask
            return False
        if ask.instead >= 0:
            self._stand_back(task, ask.instead)
            return True
        if task.root == UNHEARD:
            return False  # nobody wants it any more
        rule = task.options.retry or DEFAULT_RETRY
        course = task.course or Course(now)
        retries = course.retries
        if retries >= rule.max:
            return False
        due = now + (backoff_s(rule, retries, task.id) if ask.delay is None else ask.delay)
        if rule.deadline is not None and due > course.since + rule.deadline:
            return False
        log = (*course.log, f"attempt {1 + retries + task.deliveries}: {ask.text}")[-LOG_MAX:]
        last = None if rule.deadline is None else payload
        task.course = Course(course.since, retries + 1, log, last)
        task.peer = task.ordinal = -1
        self._ledger.records.append(Record(RETRIED, [task]))
        if self._ledger.history is not None:
            self._ledger.history.moved([task], LEASED, RETRYING, log[-1])
        self._ledger.move(task, RETRYING)
        self._ledger.later.push(due, task)
        self._ledger.starts.watch(task)
        return True

    def _stand_back(self, task: Task, by: int) -> None:
        """`task` waits for another to end in its place. It has started: no time is over for it."""
        task.peer = task.ordinal = -1
        if task.course is not None:
            task.course = replace(task.course, since=inf)
        if self._ledger.history is not None:
            self._ledger.history.moved([task], LEASED, WAITING, "another task takes its place")
        self._ledger.move(task, WAITING)
        self._ledger.joins.stand_back(task, by)
