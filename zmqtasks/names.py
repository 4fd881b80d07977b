"""Tasks with names, as workflows see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol
from weakref import WeakValueDictionary

from zmqtasks.functions import name_of


class TaskLike(Protocol):
    """A task with a name, as a signature sees it; `is_zmqtask` is True of its class."""

    is_zmqtask: bool
    name: str
    given: Mapping[str, Any]  # the options of all its signatures, where they do not say otherwise

    @property
    def function(self) -> Callable[..., Any]:
        """What `apply` calls, here and now."""

    def client(self) -> Any:
        """What its app submits with."""


NAMED: WeakValueDictionary[str, TaskLike] = WeakValueDictionary()
"""The tasks of this process's apps, by name: a signature that was JSON knows only that."""


def is_task(thing: Any) -> bool:
    """Whether it is a task with a name."""
    return getattr(thing, "is_zmqtask", False) is True


def called(task: Any) -> Any:
    """How a task is compared and shown: by its name where it has one."""
    return task.name if is_task(task) else task


def found(task: Any) -> Any:
    """The task itself: of a name, the task that this process has under it, if it has any."""
    return NAMED.get(task, task) if type(task) is str else task


def name_in(node: Any) -> str:
    """The name of the task or function that a part of a workflow calls."""
    name = called(node.task)
    return name if isinstance(name, str) else name_of(name)
