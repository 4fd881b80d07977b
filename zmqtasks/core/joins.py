"""The joins that are not complete, and what takes another task's place: what a ledger knows of workflows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from zmqtasks.core.assembly import LEFT, MISFIT, Assembly, Outcome
from zmqtasks.core.join import Delivery, Slot
from zmqtasks.core.stand import Stand
from zmqtasks.messages import JOIN, LEASED, SUCCEEDED, UPSTREAM_FAILED, WAITING, Task

UNHEARD = -2  # the root of what runs for a workflow that has no use for it: it is not run again


class Left(NamedTuple):
    """What has ended, if anything, and what was there for its sake alone: ranges of ids, as (first, how many)."""

    task: Task | None
    ranges: list[tuple[int, int]]


class Joins:
    """Assemblies and stands, by the ids of the tasks that they end."""

    def __init__(self) -> None:
        self.assemblies: dict[int, Assembly] = {}
        self.stands: dict[int, Stand] = {}
        self.left: list[Left] = []  # in this turn
        self.ended_hard: set[int] = set()  # of those the ones by a cancel that ends what runs
        self.due: list[Delivery] = []  # to stands that came to be when their outcome was there already

    def expect(self, member: Task) -> tuple[str, list[Delivery]]:
        """A member is submitted: why it cannot be one, "" if it can; and what is to be delivered for that."""
        join, index = member.parent or (-1, -1)
        assembly = self.assemblies.get(join)
        if assembly is None or assembly.is_over:
            return LEFT, []
        if index < 0 or not assembly.expect(member.id, member.count):
            return MISFIT, [_end(assembly, assembly.misfit())]
        return "", []

    def neighbours(self, tasks: list[Task], start: int) -> int:
        """How many tasks from `start` on are single, and members side by side of a join that has room for them."""
        first = tasks[start]
        join, index = first.parent or (-1, -1)
        assembly = self.assemblies.get(join)
        if assembly is None or assembly.is_over or index < 0:
            return 0
        room = len(tasks) if assembly.count is None else assembly.count - assembly.there
        id_, root = first.id, first.root
        for at, task in enumerate(tasks[start : start + room]):
            if (
                task.fn == JOIN
                or task.root != root
                or task.id != id_ + at
                or task.parent != (join, index + at)
            ):
                return at
        return min(room, len(tasks) - start)

    def expect_all(self, first: Task, count: int) -> None:
        """So many neighbours from `first` on are submitted."""
        self.assemblies[(first.parent or (-1, -1))[0]].expect(first.id, count)

    def gather(self, state: int, tasks: list[Task], payloads: list[Any]) -> list[Delivery]:
        """Tasks have ended: the ends of joins that come of it."""
        work: list[Delivery] = []
        assemblies = self.assemblies
        for task, payload in zip(tasks, payloads, strict=True):
            if (
                (parent := task.parent) is not None
                and (assembly := assemblies.get(parent[0])) is not None
                and (outcome := assembly.take(task, state, payload)) is not None
            ):
                work.append(_end(assembly, outcome))
        return work

    def complete(self, id_: int) -> list[Delivery]:
        """The end of a join, if it waits for nothing."""
        assembly = self.assemblies.get(id_)
        outcome = assembly.outcome() if assembly is not None else None
        return [_end(assembly, outcome)] if assembly is not None and outcome is not None else []

    def close(self, id_: int, count: int) -> list[Delivery]:
        """That open join has so many members."""
        assembly = self.assemblies.get(id_)
        outcome = assembly.close(count) if assembly is not None else None
        return [_end(assembly, outcome)] if assembly is not None and outcome is not None else []

    def abandon(self, first: int, count: int) -> list[Delivery]:
        """The joins with these ids get no further members."""
        return [
            _end(assembly, assembly.abandoned())
            for id_, assembly in self.assemblies.items()
            if first <= id_ < first + count and not (assembly.is_over or assembly.there == assembly.count)
        ]

    def leave(self, state: int, tasks: list[Task]) -> None:
        """Tasks end: remember what was there for their sake."""
        for task in tasks:
            ranges: list[tuple[int, int]] = []
            if task.fn == JOIN and (assembly := self.assemblies.pop(task.id, None)) is not None:
                assembly.is_over = True
                ranges = assembly.ranges
            for id_ in _within(task, self.stands) if self.stands else ():
                ranges = [*ranges, (self.stands.pop(id_).by, 1)]
            if ranges or (state != SUCCEEDED and task.needs and task.root >= 0):
                self.left.append(Left(task, ranges))

    # ---- stands --------------------------------------------------------------------------------------------------

    def stand_in(self, by: Task, id_: int, task: Task | None, peer: int) -> Stand | None:
        """`by` is to end for `id_`, of `task`, if that runs at `peer`; else nobody wants it."""
        if by.span or task is None or task.state != LEASED or task.peer != peer:
            self.left.append(Left(None, [(by.id, by.count)]))
            return None
        if (before := self.stands.get(id_)) is not None:  # the peer has run it again
            self.left.append(Left(None, [(before.by, 1)]))
        stand = self.stands[id_] = Stand(by.id, id_)
        return stand

    def stand_back(self, task: Task, by: int) -> None:
        """`task`, in no hand any more, says that `by` ends for it."""
        stand = self.stands.get(task.id)
        if stand is None or stand.by != by:
            if stand is not None:
                self.left.append(Left(None, [(stand.by, 1)]))
            stand = self.stands[task.id] = Stand(by, task.id)
            stand.outcome = UPSTREAM_FAILED, (by, UPSTREAM_FAILED, "no such task")
        stand.body = task
        if stand.outcome is not None:
            self.due.append((Slot(stand, 0), by, *stand.outcome))
        elif task.root == UNHEARD:
            self.left.append(Left(None, [(task.id, 1)]))

    def returned(self, tasks: Iterable[Task]) -> None:
        """These run again: what they had submitted for their place does not count.

        That may be so of what is given back as not begun too: a child of the node died with the outcome.
        """
        for task in tasks:
            for id_ in _within(task, self.stands):
                self.left.append(Left(None, [(self.stands.pop(id_).by, 1)]))

    def check(self, tasks: dict[int, Task]) -> None:
        """Assert what must hold of joins and their members, in both directions."""
        pending: Counter[int] = Counter()
        for task in tasks.values():
            if task.parent is not None:
                pending[task.parent[0]] += task.count
                assert task.parent[0] in self.assemblies, f"task {task.id} is a member of what has ended"
            if task.fn == JOIN and not _catches(task):
                assert task.id in self.assemblies, f"join {task.id} has no members"
                assert task.state == WAITING, f"join {task.id} is in state {task.state}"
        for id_, assembly in self.assemblies.items():
            assert tasks.get(id_) is assembly.body, f"join {id_} has ended, and its members are waited for"
            assert assembly.there - assembly.have == pending[id_], (
                f"join {id_} waits for {assembly.there - assembly.have} members, and {pending[id_]} are there"
            )
            assert sum(items for _, items, _ in assembly.entries) == assembly.have, f"join {id_}: entries"
            complete = assembly.is_over or (assembly.have == assembly.count and not assembly.held)
            assert not complete, f"join {id_} is complete, and has not ended"
        for id_, stand in self.stands.items():
            if stand.body is not None:
                assert tasks.get(id_) is stand.body, f"task {id_} has ended, and another would end for it"
                assert stand.by in tasks, f"task {stand.by} has ended, and {id_} has not"
        unseen = [*self.left, *self.due, *self.ended_hard]
        assert not unseen, "what was left is not looked after"


def _end(assembly: Assembly, outcome: Outcome) -> Delivery:
    return Slot(assembly, 0), assembly.body.id, *outcome


def _catches(join: Task) -> bool:
    return bool(join.payload.failure == "catch")


def _within(task: Task, ids: dict[int, Any]) -> list[int]:
    if task.count == 1:
        return [task.id] if task.id in ids else []
    return [id_ for id_ in ids if task.id <= id_ < task.id + task.count]
