"""What is found by its name: in a module, as tasks and apps are, or by workers only, that have registered it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import FunctionType, ModuleType
from typing import Any, SupportsIndex

from zmqtasks.errors import UnknownTask
from zmqtasks.suggest import close_to


class Named:
    """It stands in its module under `__qualname__`; where workers do not have that, it travels by its parts."""

    __qualname__: str
    name: str  # what it is called in output and errors

    @property
    def plain(self) -> FunctionType | None:
        """The function that may run in its place; None if there is no such function."""
        return None

    def parts(self) -> tuple[Any, ...]:
        """What it is made of, as `__reduce__` says it."""
        raise NotImplementedError

    def __reduce_ex__(self, _protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """For picklers that know nothing of this: by its name, but for the main module's."""
        return self.__qualname__ if self.__module__ != "__main__" and is_found(self) else self.parts()


def is_found(obj: Any) -> bool:
    """Whether `obj` is what its module has under its qualified name."""
    found: Any = sys.modules.get(obj.__module__ or "")
    if not isinstance(found, ModuleType):
        return False
    for step in obj.__qualname__.split("."):
        found = getattr(found, step, None)
    return found is obj


TASKS: dict[str, Callable[..., Any]] = {}  # of the app that this process, a worker's child, was started with


def registered(name: str) -> Callable[..., Any]:
    """The task that this process has under `name`."""
    if (task := TASKS.get(name)) is None:
        raise unknown(name, TASKS)
    return task


def unknown(name: str, known: Iterable[str]) -> UnknownTask:
    """The error for a name that is not among the `known`."""
    return UnknownTask(f"there is no task {name!r} here{close_to(name, known)}")
