"""Task distribution for Python over ZeroMQ, peer to peer, with no server to install.

>>> from zmqtasks import Client
>>> with Client() as client:
...     client.submit(lambda x: x + 1, 41).result()
42
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zmqtasks.errors import (
    BrokerLost,
    ClientClosed,
    ConnectionTimeout,
    ForeignFuture,
    ForkedClient,
    NotInTask,
    NotPicklable,
    QueueFull,
    RemoteError,
    ResultExpired,
    TaskCancelled,
    TaskExpired,
    TimeLimitExceeded,
    TooDeep,
    UnknownTask,
    UnsafeConfiguration,
    UnusableKey,
    UpstreamFailed,
    WorkerLost,
    ZmqTasksError,
)

if TYPE_CHECKING:
    from zmqtasks.app import App
    from zmqtasks.client import Client
    from zmqtasks.context import current
    from zmqtasks.event import Event
    from zmqtasks.future import Future
    from zmqtasks.messages import State
    from zmqtasks.options import Retry
    from zmqtasks.outcome import Failure
    from zmqtasks.pipeline import Ventilator
    from zmqtasks.progress import progress_bar
    from zmqtasks.task import Task
    from zmqtasks.waiting import as_completed
    from zmqtasks.workflow import Signature, Workflow, chain, chord, group, signature

# Loaded when they are first used: a worker needs none of them, and a program that only catches errors neither.
_LAZY = {
    "App": "app",
    "Client": "client",
    "Event": "event",
    "Failure": "outcome",
    "Future": "future",
    "Retry": "options",
    "Signature": "workflow",
    "State": "messages",
    "Task": "task",
    "Ventilator": "pipeline",
    "Workflow": "workflow",
    "as_completed": "waiting",
    "chain": "workflow",
    "chord": "workflow",
    "current": "context",
    "group": "workflow",
    "progress_bar": "progress",
    "signature": "workflow",
}

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - by what they are for
    # submitting
    "Client",
    "Event",
    "Future",
    "Retry",
    "State",
    "as_completed",
    "progress_bar",
    # tasks with names
    "App",
    "Task",
    # workflows
    "signature",
    "chain",
    "group",
    "chord",
    "Failure",
    "Signature",
    "Workflow",
    # streams
    "Ventilator",
    # inside a task
    "current",
    # errors
    "ZmqTasksError",
    "BrokerLost",
    "ClientClosed",
    "ConnectionTimeout",
    "ForeignFuture",
    "ForkedClient",
    "NotInTask",
    "NotPicklable",
    "QueueFull",
    "RemoteError",
    "ResultExpired",
    "TaskCancelled",
    "TaskExpired",
    "TimeLimitExceeded",
    "TooDeep",
    "UnknownTask",
    "UnsafeConfiguration",
    "UnusableKey",
    "UpstreamFailed",
    "WorkerLost",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'zmqtasks' has no attribute {name!r}")
    value = getattr(import_module(f"zmqtasks.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
