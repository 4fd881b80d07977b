"""What is found by its name: in a module, as tasks and apps are, or by workers only, that have registered it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any, SupportsIndex

from zmqtasks.errors import UnknownTask
from zmqtasks.suggest import close_to

_CO_COROUTINE, _CO_GENERATOR, _CO_ASYNC_GENERATOR = 0x80, 0x20, 0x200  # as `inspect` has them


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


def is_async(fn: Any) -> bool:
    """Whether a call of `fn` gives a coroutine."""
    return _has(fn, _CO_COROUTINE)


def goes_on(fn: Any) -> bool:
    """Whether a call of `fn` gives a coroutine or a generator: it is not through then."""
    return _has(fn, _CO_COROUTINE | _CO_GENERATOR | _CO_ASYNC_GENERATOR)


def _has(fn: Any, flags: int) -> bool:
    while isinstance(fn, partial):
        fn = fn.func
    if isinstance(fn, Named):
        fn = getattr(fn, "run", fn)
    code = getattr(fn, "__code__", None) or getattr(getattr(fn, "__call__", None), "__code__", None)  # noqa: B004 - it is looked into
    return bool(getattr(code, "co_flags", 0) & flags)


_app: list[Any] = []  # of this process, a worker's child
_trouble = ""  # why there is none


def register(place: str) -> None:
    """Import the app at module:attribute, if there is one: its tasks are known by their names here.

    What that raises is written to standard error, and is why its tasks fail: it ran well where the worker started.
    """
    global _trouble
    if not place:
        return
    module, _, attributes = place.partition(":")
    try:
        app: Any = import_module(module)
        for attribute in attributes.split("."):
            app = getattr(app, attribute)
        _app.append(app)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's module does
        _trouble = f": importing {module!r} raised {type(error).__name__} in this process: {error}"
        sys.excepthook(*sys.exc_info())


def has_app() -> bool:
    """Whether this process was told to import one."""
    return bool(_app or _trouble)


def registered(name: str) -> Callable[..., Any]:
    """The task that this process has under `name`."""
    tasks: Mapping[str, Callable[..., Any]] = _app[0].tasks if _app else {}
    if (task := tasks.get(name)) is None:
        raise unknown(name, tasks, _trouble)
    return task


def unknown(name: str, known: Iterable[str], trouble: str = "") -> UnknownTask:
    """The error for a name that is not among the `known`."""
    return UnknownTask(f"there is no task {name!r} here{trouble or close_to(name, known)}")
