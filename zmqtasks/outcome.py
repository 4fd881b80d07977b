"""How tasks ended: values and exceptions, made of what the workers sent when somebody looks at them."""

from __future__ import annotations

from typing import Any, NamedTuple

from zmqtasks import payload as payloads
from zmqtasks.errors import (
    BrokerLost,
    QueueFull,
    RemoteError,
    ResultExpired,
    TaskCancelled,
    TaskExpired,
    TimeLimitExceeded,
    UpstreamFailed,
    WorkerLost,
    ZmqTasksError,
)
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    EXPIRED,
    FACE,
    FAILED,
    FULL,
    GONE,
    LATE,
    UPSTREAM_FAILED,
    Loss,
    Task,
)

REFUSED: dict[str, type[ZmqTasksError]] = {
    FULL: QueueFull,
    LATE: ResultExpired,
    str(GONE): BrokerLost,
}
"""Reasons of tasks that the dispatcher has ended though nobody cancelled them: to their futures they failed."""


class Failure(NamedTuple):
    """What `link_error` gets: which task failed, its exception, and the traceback as text."""

    task_id: str
    exception: BaseException
    traceback: str


def group_of(errors: list[BaseException], count: int) -> BaseException:
    """The failures of a group of `count` members that has waited for all of them."""
    return BaseExceptionGroup(f"{len(errors)} of {count} members failed", errors)


class Opened(NamedTuple):
    """The value or the exception, once it was looked at; in one store, so that threads may look at the same time."""

    value: Any
    error: BaseException | None
    made_of: Any = None  # the payload, or what the exception was made of


class Piece:
    """The outcome of neighbours in an array: `count` of them from `first` on.

    `is_list`: it is the list of their values; else it is that of the only one.
    """

    __slots__ = ("_values", "attempts", "count", "first", "is_list", "outcome", "state")

    def __init__(self, first: int, task: Task, state: int, outcome: Any) -> None:
        self.first = first
        self.count = task.count
        self.attempts = task.attempt
        self.is_list = task.span
        self.state = state
        self.outcome = outcome
        self._values: list[Any] | None = None

    def values(self) -> list[Any]:
        """Their values, unpickled once."""
        if self._values is None:
            value = payloads.load(self.outcome)
            self._values = value if self.is_list else [value]
        return self._values


class Item(NamedTuple):
    """The outcome of one of them."""

    piece: Piece
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls

    def open(self) -> Any:
        """Its value."""
        return self.piece.values()[self.index]


def load(outcome: Any, id_: str) -> Opened:
    """The value of a succeeded task; where it cannot be rebuilt here, the error that says so."""
    try:
        if type(outcome) is bytes:
            value = payloads.loads(outcome)
        else:
            value = outcome.open() if isinstance(outcome, Item) else payloads.load(outcome)
        # The payload of what may change is kept: as an argument, the future stands for what the task returned.
        return Opened(value, None, None if type(value) in payloads.ATOMS else outcome)
    except SystemExit as error:
        return Opened(
            None, RemoteError("SystemExit", f"raised while the result was unpickled: {error}"), outcome
        )
    except Exception as error:  # noqa: BLE001 - whatever the user's classes do
        error.add_note(f"The task {id_} succeeded; this was raised here, while its result was unpickled.")
        return Opened(None, error)


def is_refusal(outcome: Any) -> bool:
    """Whether a task with this outcome was ended by whoever had it, and not by anybody's wish."""
    return type(outcome) is Loss or (type(outcome) is str and outcome in REFUSED)


def error_of(state: int, outcome: Any, id_: str, cluster_id: str) -> BaseException:
    """The exception of a task that ended in `state`."""
    if is_refusal(outcome):
        kind = BrokerLost if type(outcome) is Loss else REFUSED[outcome]
        return kind(f"task {id_}: {outcome}")
    if state == FAILED and isinstance(outcome, str):  # nobody was left to raise anything
        reason, *log = outcome.split("\n")
        exceeded = TimeLimitExceeded(f"task {id_}: {reason}")
        for line in log:
            exceeded.add_note(line)
        return exceeded
    if state == FAILED:
        return payloads.load_error(outcome)
    if state == EXPIRED:
        return TaskExpired(f"task {id_}: {outcome}")
    if state == DEAD:
        return WorkerLost(f"task {id_} was running when its worker process ended, too often: {outcome}")
    if state == CANCELLED:
        return TaskCancelled(f"task {id_}: {outcome}")
    of, of_state, of_outcome = outcome
    of_id = f"{cluster_id}-{of}"
    error = UpstreamFailed(f"task {id_} never ran: task {of_id} among its arguments ended {FACE[of_state]}")
    if not (of_state == UPSTREAM_FAILED and isinstance(of_outcome, str)):
        error.__cause__ = error_of(of_state, of_outcome, of_id, cluster_id)
    return error
