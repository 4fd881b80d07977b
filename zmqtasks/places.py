"""Joins on the wire, and where tasks belong: by neighbours, so that a million members are told in a few numbers."""

from __future__ import annotations

from typing import Any

from zmqtasks.members import Closed, Members
from zmqtasks.messages import JOIN, Task
from zmqtasks.wire import Asked, Joint

_CLOSED = "closed"


def joint(task: Task) -> Joint:
    """A join, or the word that one is complete."""
    payload = task.payload
    if type(payload) is Closed:
        return Joint(task.id, payload.count, _CLOSED)
    return Joint(task.id, payload.count, payload.failure)


def join(entry: Joint) -> Task:
    """The same, as it came."""
    count, failure = entry.count, entry.failure
    if failure == _CLOSED:
        return Task(entry.id, JOIN, Closed(entry.id, count or 0))
    return Task(entry.id, JOIN, Members(count, failure))


def put(tasks: list[Task], head: Asked) -> None:
    """Where these belong."""
    members: list[Any] = [(0, 0, 0, 0)]
    roots: list[Any] = [(0, 0, -1)]
    quiet: list[Any] = [(0, 0)]
    index = -1
    for at, task in enumerate(tasks):
        if task.root >= 0:
            start, items, root = roots[-1]
            if start + items == at and root == task.root:
                roots[-1] = start, items + 1, root
            else:
                roots.append((at, 1, task.root))
        if task.face is None:
            start, items = quiet[-1]
            if start + items == at:
                quiet[-1] = start, items + 1
            else:
                quiet.append((at, 1))
        if task.parent is not None:
            start, items, join, first = members[-1]
            if start + items == at and task.parent == (join, index):
                members[-1] = start, items + 1, join, first
            else:
                members.append((at, 1, *task.parent))
            index = task.parent[1] + task.count
    head.members, head.roots, head.quiet = [
        [entry for entry in entries if entry[1]] for entries in (members, roots, quiet)
    ]


def take(tasks: list[Task], head: Asked) -> None:
    """The same, as it came."""
    for at, items, join_id, first in head.members:
        index = first
        for task in tasks[at : at + items]:
            task.parent = join_id, index
            index += task.count
    for at, items, root in head.roots:
        for task in tasks[at : at + items]:
            task.root = root


def hush(tasks: list[Task], head: Asked) -> None:
    """Nobody hears of those of which the sender does not want to."""
    for at, items in head.quiet:
        for task in tasks[at : at + items]:
            task.face = None
