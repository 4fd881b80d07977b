"""The words: a task's states, its record, and what peers say to a dispatcher and hear from it.

A message is never about one task: each carries what is pending at the moment it is made.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from zmqtasks.options import DEFAULT_OPTIONS, Options

# States are ints inside (a move costs 0.08 us, with an enum 0.5), and `State` at the face.
NEW, WAITING, SCHEDULED, RETRYING, QUEUED, LEASED = range(6)
SUCCEEDED, FAILED, CANCELLED, EXPIRED, UPSTREAM_FAILED, DEAD = range(6, 12)
FINAL_FROM = SUCCEEDED  # every state from here on is final


class State(StrEnum):
    """Where a task is in its life; the last six are final."""

    WAITING = "WAITING"
    SCHEDULED = "SCHEDULED"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    UPSTREAM_FAILED = "UPSTREAM_FAILED"
    DEAD = "DEAD"


JOIN = -1  # the `fn` of a join: what waits for its members, and never runs

FULL = "the queue is full"  # the reason of a refusal
UNHURT = "what it was for did not happen"  # the reason of a `link_error`'s end where nothing has failed


class Loss(str):
    """The reason where a broker has lost a task, or will not have its client: its future raises `BrokerLost`."""

    __slots__ = ()


GONE = Loss("the broker was started anew, and has lost what was submitted: its queue was in memory only")
AWAY = Loss(
    "this client was away for too long, and is not known any more: client.result(id) has what has ended"
)
LATE = "its outcome is no longer kept"  # nobody has asked for it in time

FACE = (
    State.QUEUED,
    State.WAITING,
    State.SCHEDULED,
    State.RETRYING,
    State.QUEUED,
    State.RUNNING,
    State.SUCCEEDED,
    State.FAILED,
    State.CANCELLED,
    State.EXPIRED,
    State.UPSTREAM_FAILED,
    State.DEAD,
)


class Report(NamedTuple):
    """How far a running task says it is."""

    done: float
    total: float | None
    message: str
    meta: dict[str, Any]


class Items(NamedTuple):
    """What a running generator has yielded: pickled, from number `first` on."""

    first: int
    packed: list[bytes]


class Course(msgspec.Struct, frozen=True):
    """What policies have to know of a task, where it has any; shared by the parts of a span.

    `since`: when it was submitted, infinity where its times are kept by a dispatcher above. `log`: of each failed
    attempt that another one follows, its number and its exception in a line; `last`: the last one's payload, where a
    deadline may make it the outcome.
    """

    since: float
    retries: int = 0
    log: tuple[str, ...] = ()
    last: Any = None


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """The failure of the task handed out as `ordinal` (of a span, of its `item`) asks for another attempt.

    `delay`: in seconds, None for the rule's backoff. `text`: the exception in a line. `instead`: it asks for the
    outcome of this task, which it has submitted (`Submit.instead`), to be its own; -1 where it does not.
    """

    ordinal: int
    item: int = -1
    delay: float | None = None
    text: str = ""
    instead: int = -1

    @property
    def lease(self) -> tuple[int, int]:
        """What failed."""
        return self.ordinal, self.item


class Task(msgspec.Struct, gc=False):
    """A task, or a span of `count` tasks with consecutive ids from `id` on that share a function and a payload.

    `payload` is opaque here (`len()` gives its bytes): the pickled arguments, or the pickled list of a span's
    arguments, of which this span is the part from `offset` on. Of a join it is its `Members`.
    `parent`: its outcome belongs at this index of that join; a span's is that of its first item. `root`: the task that
    its workflow is named by, -1 where it is in none. The fields after `root` belong to one dispatcher.
    """

    id: int
    fn: int
    payload: Any
    options: Options = DEFAULT_OPTIONS
    count: int = 1
    offset: int = 0
    span: bool = False
    needs: tuple[int, ...] = ()
    parent: tuple[int, int] | None = None
    root: int = -1

    lane: int = 0  # only workers that take what is in this lane are given it
    face: Any = (
        None  # what the host settles: a future, or the peer that waits for it; None: nobody hears of it
    )
    inputs: tuple[Any, ...] = ()  # the values of `needs`, once all are there
    state: int = NEW
    peer: int = -1
    ordinal: int = -1
    attempt: int = 0  # how often it has begun, or may have; in a hand this time too
    deliveries: int = 0  # how often it was running when its worker was lost; a node is told
    course: Course | None = None  # what its policies have to know
    ask: Ask | None = (
        None  # it ended FAILED, and asks for what this dispatcher leaves to another: to be run again
    )


class Value(msgspec.Struct, frozen=True, gc=False):
    """A succeeded outcome as another task's input: `payload`, or entry `index` of the list in it.

    Within `Gathered`: so many entries of it, `count`, from there on.
    """

    payload: Any
    index: int = -1
    count: int = 1


# ---- to a dispatcher --------------------------------------------------------------------------------------------


class Joined(msgspec.Struct, frozen=True):
    """A worker with `slots` tasks at a time is ready.

    `node`: it dispatches what it is given to workers of its own. `lanes`: it takes only what is in these (None: all).
    """

    slots: int = 1
    node: bool = False
    lanes: frozenset[int] | None = None


class Slots(msgspec.Struct, frozen=True, array_like=True):
    """A worker has so many slots now: a node one more for each of its tasks that waits for others.

    `waiting`: functions of such tasks, each said once. `awaiting`: functions that a worker runs many of at a time, as
    coroutines; as long as it says some, it takes nothing else.
    """

    slots: int
    waiting: list[int] = []
    awaiting: list[int] = []


class Leaving(msgspec.Struct, array_like=True):
    """A node gives back what has not started, takes nothing more, and will be gone."""


class Lent(NamedTuple):
    """In place of an outcome: there is a value, it is not here, and `peer` has it."""

    peer: int


class Submit(msgspec.Struct):
    """New tasks; `known` are outcomes among their `needs` that were settled before: (state, value).

    `patient`: whoever sends them has waited until there was room, and none is refused. `first`: they go ahead of all
    others of their priority. `instead`: by the id of a task among these that of the running one which takes its outcome
    for its own. `more`: what follows may need tasks among these of which nobody hears.
    """

    tasks: list[Task]
    known: dict[int, tuple[int, Any] | Lent] = {}
    patient: bool = False
    first: bool = False
    instead: dict[int, int] = {}
    more: bool = False


class Part(msgspec.Struct, array_like=True, gc=False):
    """Of the span handed out as `ordinal`, `items` from `offset` in its payload on: a list of values, or a failure.

    A failed item is a part of its own.
    """

    ordinal: int
    offset: int
    items: int
    failed: bool
    payload: Any


class Done(msgspec.Struct, array_like=True):
    """Outcomes of the single tasks handed out as `first`, `first` + 1, ..., a payload each, and of parts of spans.

    `failed` are the indexes into `payloads` of exceptions. `pace` is (function, tasks, seconds) for what ran. `asks`
    are those among the failures that ask for another attempt. `died`: (ordinal, offset, deliveries) of those among
    these that a node's workers have died of before.
    """

    first: int
    payloads: list[Any]
    failed: list[int] = []
    parts: list[Part] = []
    pace: list[tuple[int, int, float]] = []
    asks: list[Ask] = []
    died: list[tuple[int, int, int]] = []


class Ended(msgspec.Struct, array_like=True, gc=False):
    """Of what was handed out as `ordinal`, `items` from `offset` on ended, neither by a value nor by a failure.

    `deliveries`: how often workers have died of it.
    """

    ordinal: int
    offset: int
    items: int
    state: int
    payload: Any
    deliveries: int = 0


class Ends(msgspec.Struct, array_like=True):
    """What a node has settled for good: its workers died of it, or it was cancelled there."""

    ends: list[Ended]


class Running(msgspec.Struct, array_like=True):
    """What a node's workers have begun, as (ordinal, offset): if the node is lost, these were running.

    Of short work only what may have been running when another node was lost: the rest comes and goes too fast.
    """

    leases: list[tuple[int, int]]


class Returned(msgspec.Struct, array_like=True):
    """The answer to `Recall`: (ordinal, offset, items) of what will not be run; of a single task (ordinal, 0, 1).

    `died`: (ordinal, offset, deliveries) of what among it a node's workers have died of, so that it is counted on.
    """

    rest: list[tuple[int, int, int]]
    died: list[tuple[int, int, int]] = []


class Waiting(msgspec.Struct, array_like=True):
    """The worker's task waits for other tasks: its slot is free meanwhile.

    Until `Resumed`, or, where it waits for one task only, until task `on` is settled: it will go on then, and counting
    it at once keeps others from being started in its place.
    """

    on: int = -1


class Resumed(msgspec.Struct, array_like=True):
    """The worker's task goes on."""


class Lost(msgspec.Struct, frozen=True):
    """A worker is gone. `ordinal` was running, -1 if nothing was; of a span, `item` (counted from its payload's).

    `innocent`: it was ended, and for none of its tasks: no delivery is counted.
    """

    reason: str
    ordinal: int = -1
    item: int = 0
    innocent: bool = False


class Claimed(msgspec.Struct, frozen=True):
    """The answer to the effect `Look(peer)`, from its host: what it runs, as in `Lost`, and since when.

    The ordinal is -1 where nothing runs that can be over a limit.
    """

    peer: int
    ordinal: int = -1
    item: int = 0
    since: float = 0.0


class Cancel(msgspec.Struct, frozen=True):
    """A question: cancel `id`, ending it if it runs and `terminate`; `token` comes back in the `Answer`.

    Without a token there is no answer. With a `count` above 1: whatever has not started of so many ids from `id` on;
    there is no token then. A dispatcher asks a
    node the same about what it has handed to it, and the node says `Answered`.
    """

    id: int
    terminate: bool
    token: Any
    count: int = 1


class Answered(msgspec.Struct, array_like=True):
    """A node's answer to `Cancel`: `cancelled`, and then it has said so in `Ends` before."""

    id: int
    token: Any
    cancelled: bool


class Beat(msgspec.Struct, array_like=True):
    """Nothing but that the worker is there."""


# ---- to a stream (core/stream.py) --------------------------------------------------------------------------------


class Feed(msgspec.Struct, frozen=True):
    """Inputs number `base`, `base` + 1, ..., `count` of them, as a span's payload."""

    base: int
    count: int
    payload: Any


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag="accepted"):
    """The sink has outcomes of these `items` of the batch `base`, from `offset` on, and needs no others."""

    base: int
    offset: int
    items: int


class Claim(msgspec.Struct, array_like=True, tag="claim"):
    """A worker has read these parcels, and answers for them. `pace` is as in `Done`."""

    ordinals: list[int]
    pace: list[tuple[int, int, float]] = []


# ---- from a dispatcher ------------------------------------------------------------------------------------------


class Run(msgspec.Struct):
    """Tasks for a worker, numbered on this connection from `first` on."""

    first: int
    tasks: list[Task]


class Recall(msgspec.Struct, array_like=True):
    """Send what is finished and give back what has not started."""


class Deep(msgspec.Struct, array_like=True):
    """The answer to `Waiting` where too many wait already: do not wait."""


class Unwanted(msgspec.Struct, array_like=True):
    """Whoever asked for the running task `id` no longer wants it: the task may ask, and stop."""

    id: int
