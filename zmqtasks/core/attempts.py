"""How often a task has begun: what is known of that, and what is not.

A failure that another attempt follows has left a line in its course, a lost worker a delivery. Beyond these are the
attempts that may have been: when a node is lost, of its hand only some is known to have begun.
"""

from __future__ import annotations

from zmqtasks.messages import LEASED, Task


def known_attempts(task: Task) -> int:
    """At least so often; where it is in a hand, that is one of them."""
    return task.deliveries + (len(task.course.log) if task.course is not None else 0) + (task.state == LEASED)


def is_suspect(task: Task) -> bool:
    """Whether it may have begun on a node that was lost: it goes alone, and is spoken of at once."""
    return task.attempt > known_attempts(task)


def count_deaths(task: Task, deliveries: int) -> None:
    """Workers of a node have died of it so often, all in all: each time was an attempt."""
    task.attempt += max(0, deliveries - task.deliveries)
    task.deliveries = max(task.deliveries, deliveries)
