"""How tasks ended: values and exceptions, made of what the workers sent when somebody looks at them."""

from __future__ import annotations

import traceback
from typing import Any, NamedTuple

from zmqtasks import loans
from zmqtasks import payload as payloads
from zmqtasks.errors import RemoteError
from zmqtasks.messages import CANCELLED, SUCCEEDED, Task, Value
from zmqtasks.streamed import is_streamed


class Failure(NamedTuple):
    """What `link_error` gets: which task failed, its exception, and the traceback as text."""

    task_id: str
    exception: BaseException
    traceback: str


class Caught:
    """Among a call's arguments: the `Failure` of task `task_id`, which the join `future` has caught."""

    __slots__ = ("future", "task_id")

    def __init__(self, task_id: str, future: Any) -> None:
        self.task_id = task_id
        self.future = future

    @property
    def number(self) -> int:
        """The id of the join within its cluster."""
        return int(self.future.number)

    def known(self) -> tuple[int, Any] | None:
        """As of its future."""
        known: tuple[int, Any] | None = self.future.known()
        return known

    def is_light(self) -> bool:
        """As of its future."""
        return bool(self.future.is_light())

    def __reduce__(self) -> Any:
        return failure_of, (self.task_id, self.future)


def failure_of(task_id: str, caught: list[BaseException]) -> Failure:
    """What a task is given of a failure."""
    (error,) = caught
    return Failure(task_id, error, "".join(traceback.format_exception(error)))


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

    def values(self, cluster_id: str = "") -> list[Any]:
        """Their values, unpickled once; `cluster_id` as `payload.load` takes it."""
        if self._values is None:
            value = payloads.load(self.outcome, None, cluster_id)
            self._values = value if self.is_list else [value]
        return self._values


class Item(NamedTuple):
    """The outcome of one of them."""

    piece: Piece
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls

    def open(self, cluster_id: str) -> Any:
        """Its value."""
        return self.piece.values(cluster_id)[self.index]


def load(outcome: Any, id_: str) -> Opened:
    """The value of a succeeded task; where it cannot be rebuilt here, the error that says so."""
    try:
        if type(outcome) is bytes:
            value = payloads.loads(outcome)
        else:
            cluster_id = id_.rpartition("-")[0]
            is_item = isinstance(outcome, Item)
            value = outcome.open(cluster_id) if is_item else payloads.load(outcome, None, cluster_id)
        # The payload of what may change is kept: as an argument, the future stands for what the task returned.
        whole = outcome.piece.outcome if isinstance(outcome, Item) and not outcome.piece.is_list else outcome
        is_plain = type(value) in payloads.ATOMS and not is_streamed(whole)
        return Opened(value, None, None if is_plain else outcome)
    except SystemExit as error:
        return Opened(
            None, RemoteError("SystemExit", f"raised while the result was unpickled: {error}"), outcome
        )
    except Exception as error:  # noqa: BLE001 - whatever the user's classes do
        error.add_note(f"The task {id_} succeeded; this was raised here, while its result was unpickled.")
        return Opened(None, error)


def as_input(state: int, outcome: Any) -> tuple[int, Any]:
    """The state, and the value as an input of other tasks or the reason why there is none."""
    if type(outcome) is Opened:
        made_of = outcome.made_of
        if state == SUCCEEDED and made_of is None:
            return SUCCEEDED, Value(payloads.dump_result(outcome.value))
        outcome = made_of
    if state != SUCCEEDED:
        return (CANCELLED, str(outcome)) if payloads.is_refusal(outcome) else (state, outcome)
    if isinstance(outcome, Item):
        return SUCCEEDED, Value(outcome.piece.outcome, outcome.index if outcome.piece.is_list else -1)
    return SUCCEEDED, Value(outcome)


def is_light(state: int, outcome: Any) -> bool:
    """Whether that goes along with each submit that needs it; said without pickling what is large."""
    if state == SUCCEEDED and type(outcome) is Opened and outcome.made_of is None:
        value = outcome.value
        return type(value) not in (str, bytes) or len(value) <= loans.LIGHT_BYTES_MAX
    return loans.is_light(as_input(state, outcome))
