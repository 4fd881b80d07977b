"""With which code a command ends: the codes, and the errors that stand for them."""

from __future__ import annotations

from enum import IntEnum

from zmqtasks.errors import (
    BrokerLost,
    ConnectionTimeout,
    NoWorkers,
    ResultExpired,
    TargetFailed,
    TimeLimitExceeded,
    UnknownTask,
    UnsafeConfiguration,
    UnusableFile,
    UnusableKey,
    ZmqTasksError,
)

__all__ = ["CommandError", "Exit", "exit_of"]


class Exit(IntEnum):
    """The exit codes of every command. 69 and 78 are those of sysexits.h, 130 and 143 those of the shells."""

    FINE = 0
    FAILED = 1
    USAGE = 2
    TARGET = 3
    NO_CONNECTION = 4
    TIMEOUT = 5
    NOT_FOUND = 6
    NO_ANSWER = 69
    UNSAFE = 78
    INTERRUPTED = 130
    TERMINATED = 143


class CommandError(ZmqTasksError):
    """Raised by a command that cannot go on: its message is the line that the user sees, `code` how it ends."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


# The first that fits: ConnectionTimeout and TimeLimitExceeded are TimeoutErrors too.
_EXITS: tuple[tuple[type[Exception], Exit], ...] = (
    (ConnectionTimeout, Exit.NO_CONNECTION),
    (BrokerLost, Exit.NO_CONNECTION),
    (ConnectionError, Exit.NO_CONNECTION),
    (UnknownTask, Exit.NOT_FOUND),
    (ResultExpired, Exit.NOT_FOUND),
    (UnusableFile, Exit.USAGE),
    (UnusableKey, Exit.USAGE),
    (UnsafeConfiguration, Exit.UNSAFE),
    (NoWorkers, Exit.NO_ANSWER),
    (TargetFailed, Exit.TARGET),
    (TimeLimitExceeded, Exit.FAILED),
    (TimeoutError, Exit.TIMEOUT),
)


def exit_of(error: Exception) -> Exit:
    """Return the code for an error that ended a command. What a task raised is no such error: that is FAILED."""
    if isinstance(error, CommandError):
        return error.code
    return next((code for kind, code in _EXITS if isinstance(error, kind)), Exit.FAILED)
