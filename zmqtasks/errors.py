"""Everything that zmqtasks raises, in one tree under `ZmqTasksError`."""

from __future__ import annotations

from concurrent.futures import CancelledError

__all__ = [
    "BadInputError",
    "BrokerLost",
    "ClientClosed",
    "CommandFailed",
    "ConnectionTimeout",
    "ForeignFuture",
    "ForkedClient",
    "InputChanged",
    "InputFailed",
    "NoWorkers",
    "NotInTask",
    "NotJson",
    "NotPicklable",
    "OutputFailed",
    "QueueFull",
    "RemoteError",
    "ResultExpired",
    "TargetFailed",
    "TaskCancelled",
    "TaskExpired",
    "TimeLimitExceeded",
    "TooDeep",
    "UnknownTask",
    "UnsafeConfiguration",
    "UnusableFile",
    "UnusableKey",
    "UpstreamFailed",
    "WorkerLost",
    "ZmqTasksError",
]


class ZmqTasksError(Exception):
    """The root: whatever zmqtasks itself has to say, and no error of a task's own."""


class BadInputError(ZmqTasksError, ValueError):
    """Raised for an input that cannot be read as what it should be, naming its file and line."""


class BrokerLost(ZmqTasksError):  # noqa: N818 - the public name
    """Raised by the future of a task that the broker no longer has, as after its restart with memory only."""


class ClientClosed(ZmqTasksError, RuntimeError):  # noqa: N818 - the public name; a RuntimeError as in concurrent.futures
    """Raised when a client is used after it was closed."""


class CommandFailed(ZmqTasksError):  # noqa: N818 - says what is wrong
    """Raised by an input's shell command that failed: `exit` is its status, `stdout` and `stderr` what it wrote.

    The status is a shell's: 127 for a command that is not there, 126 for one that cannot be run, 128 and the number of
    the signal for one that a signal ended.
    """

    def __init__(self, message: str, exit_: int, stdout: bytes = b"", stderr: bytes = b"") -> None:
        super().__init__(message, exit_, stdout, stderr)
        self.exit = exit_
        self.stdout = stdout
        self.stderr = stderr

    def __str__(self) -> str:
        return str(self.args[0])


class ConnectionTimeout(ZmqTasksError, TimeoutError):  # noqa: N818 - the public name; a TimeoutError as in sockets
    """Raised when a broker has not answered within `connect_timeout` seconds."""


class ForkedClient(ZmqTasksError, RuntimeError):  # noqa: N818 - the public name
    """Raised when a forked process uses its parent's embedded client, or pipeline: open one of its own there."""


class ForeignFuture(ZmqTasksError, ValueError):  # noqa: N818 - says what was passed
    """Raised when an argument holds a future of another client, or none of zmqtasks at all."""


class InputChanged(ZmqTasksError, ValueError):  # noqa: N818 - says what is wrong
    """Raised by a run that resumes an output which was made from other inputs, naming the first that differs."""


class InputFailed(ZmqTasksError):  # noqa: N818 - says what has happened
    """Raised by `zmqtasks ventilator --then` and `--fold`: input `index` has failed; `reason` has it, and why."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(index, reason)
        self.index = index
        self.reason = reason

    def __str__(self) -> str:
        return f"input {self.index}{self.reason}"


class NotInTask(ZmqTasksError, RuntimeError):  # noqa: N818 - the public name
    """Raised by `current()` outside a task."""


class NotJson(ZmqTasksError, TypeError):  # noqa: N818 - says what is wrong
    """Raised for a result that JSON cannot hold, naming its type and the path to it."""


class NotPicklable(ZmqTasksError, TypeError):  # noqa: N818 - says what is wrong
    """Raised for a function, argument or result that cannot be pickled, naming the path to the culprit."""


class NoWorkers(ZmqTasksError):  # noqa: N818 - says what is wrong
    """Raised by a run that has waited for workers for as long as it was to."""


class OutputFailed(ZmqTasksError, OSError):  # noqa: N818 - says what is wrong
    """Raised when results cannot be written any more, as on a full disk."""


class QueueFull(ZmqTasksError):  # noqa: N818 - the public name
    """Raised by a future whose task a full queue refused (`queue_max`): it never ran, submit it again later."""


class ResultExpired(ZmqTasksError, LookupError):  # noqa: N818 - the public name
    """Raised when a task has ended, but its result was kept no longer than its `result_ttl`."""


class TargetFailed(ZmqTasksError):  # noqa: N818 - says what is wrong
    """Raised by a run whose function cannot be run where its workers are, as when they lack a module."""


class TaskCancelled(ZmqTasksError, CancelledError):  # noqa: N818 - the public name
    """Raised by the future of a task that was cancelled; also a `concurrent.futures.CancelledError`."""


class TaskExpired(ZmqTasksError):  # noqa: N818 - the public name
    """Raised by the future of a task that had not started within its `expires` (state EXPIRED)."""


class TimeLimitExceeded(ZmqTasksError, TimeoutError):  # noqa: N818 - the public name
    """Raised by the future of a task that ran longer than its `time_limit`."""


class TooDeep(ZmqTasksError, RecursionError):  # noqa: N818 - the public name
    """Raised in a task that waits for another when too many tasks of this machine wait already."""


class UnknownTask(ZmqTasksError, LookupError):  # noqa: N818 - the public name
    """Raised for the id of a task that nobody submitted."""


class UnsafeConfiguration(ZmqTasksError):  # noqa: N818 - says what is wrong
    """Raised in place of something that would let others in: its one line says what to do first."""


class UnusableFile(ZmqTasksError, OSError):  # noqa: N818 - says what is wrong
    """Raised for an input that cannot be read, or an output that must not or cannot be written."""


class UnusableKey(ZmqTasksError):  # noqa: N818 - says what is wrong
    """Raised for a key file that is missing, damaged, or another role's."""


class UpstreamFailed(ZmqTasksError):  # noqa: N818 - the public name
    """Raised by a future whose task never ran, since a future among its arguments failed (its `__cause__`)."""


class WorkerLost(ZmqTasksError):  # noqa: N818 - the public name
    """Raised by the future of a task that ended its worker process `max_deliveries` times (state DEAD)."""


class RemoteError(ZmqTasksError):
    """Raised in place of a task's exception that cannot be rebuilt here, or that must not be raised here.

    `type_name` is the exception's qualified type, `message` its text, `traceback` the worker's traceback as text.
    """

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(type_name, message, traceback)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" if self.message else self.type_name


def type_name(error: BaseException) -> str:
    """The type of an exception as a reader knows it: with its module, unless that is Python's or the main one."""
    kind = type(error)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def text_of(error: BaseException) -> str:
    """What an exception says, be its `__str__` broken."""
    try:
        return str(error)
    except BaseException as failure:  # noqa: BLE001 - a broken __str__
        return f"<no text: {type(failure).__name__} in __str__>"
