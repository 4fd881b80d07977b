"""What a machine tells its host to do, in this order."""

from __future__ import annotations

from typing import Any, NamedTuple

from zmqtasks.messages import Task

ACCEPTED, DELIVERED, RELEASED = "accepted", "delivered", "released"
RETRIED, SETTLED = "retried", "settled"


class Record(NamedTuple):
    """For the journal, before anything else of the turn: what has happened to tasks, one of the words above.

    Released is what has waited for others, and can run now. `payloads` go with settled successes and failures, entry by
    entry. A span's record speaks of its `count` ids.
    """

    kind: str
    tasks: list[Task]
    state: int = 0
    payloads: list[Any] = []  # noqa: RUF012 - never written


class Send(NamedTuple):
    """`message` to `peer`."""

    peer: int
    message: Any


class Settle(NamedTuple):
    """Final outcomes: each task with its payload: a value, an exception, or the reason as text.

    A FAILED task whose payload is text has exceeded its time limit; a join's is `Gathered`, all that failed in it. One
    with an `ask` is to be run again by whoever dispatches to this dispatcher, if that has a mind to.

    UPSTREAM_FAILED has (id of what failed first, its state, its payload). The payload of a succeeded span is the list
    of its values; of any other state it speaks for each of its ids.
    """

    state: int
    tasks: list[Task]
    payloads: list[Any]


class Answer(NamedTuple):
    """The answer to `Cancel`: whether the task is cancelled."""

    token: Any
    cancelled: bool


class Look(NamedTuple):
    """Say what `peer` runs, and since when: the answer is `Claimed`, and the next turn is due at once."""

    peer: int


class End(NamedTuple):
    """Kill `peer`: its running task is to be cancelled by force, or is over its limit; `Lost` will follow.

    With an `ordinal`: only if it still runs that one (of a span, that `item`), and nothing otherwise.
    """

    peer: int
    ordinal: int = -1
    item: int = 0


Effect = Record | Send | Settle | Answer | Look | End
