"""Functions: pickled once, named by their hash, known by a number.

Pickling a closure takes 20 us, looking it up 0.1. So a function's bytes are kept as long as nothing that it captures
has changed: its closure cells, defaults and globals are compared with what they were, by identity, where they are
immutable atoms, modules, or what is found by its name in an importable module. A function that captures anything else
(a list, an object, an array) is pickled anew at each submit and travels with the arguments, and so does any callable
that is no plain function: what it captured when `submit` was called is what the task sees.
"""

from __future__ import annotations

import builtins
import functools
import sys
import threading
from collections.abc import Callable, Sequence
from operator import is_
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple

from zmqtasks.blobs import hold
from zmqtasks.catalog import Catalog, Function
from zmqtasks.culprit import names
from zmqtasks.installed import is_installed
from zmqtasks.named import Named, unknown
from zmqtasks.payload import ATOMS, Pickler

_VARIANTS_MAX = 16  # a lambda of more different captures is data rather than a function: it travels inline
_KEPT_MAX = 4096
_MISSING = object()

Capture = tuple[Any, str | None, Any]  # (a namespace, the name, the value), or (a cell, None, the value)


class _Known(NamedTuple):
    function: Function
    owner: Any  # the callable: kept, since its id is the key
    scope: Any = None  # from here on: what a function by value captured
    cells: tuple[Any, ...] | None = None
    defaults: tuple[Any, ...] | None = None
    captured: tuple[Capture, ...] = ()


class Functions(Catalog):
    """The functions that a client has sent, by number.

    `by_value`: those of modules that are not installed too, for workers elsewhere do not have them. `has_names`: some
    workers may have registered tasks, which are known by their names then.
    """

    def __init__(self, *, by_value: bool = False, has_names: bool = True) -> None:
        super().__init__()
        self._by_value = by_value
        self._has_names = has_names
        self._known: dict[int, _Known] = {}  # by id of the code object, or of a callable that has none
        self._aliases: dict[int, tuple[Any, Any]] = {}  # by id of what a plain function stands for
        self._variants: dict[int, int] = {}  # how many a code object has had
        self._lock = threading.RLock()

    def reset_lock(self) -> None:
        """After a fork: whoever held it is not here."""
        self._lock = threading.RLock()

    def find(self, fn: Callable[..., Any] | str, name: str = "") -> Function:
        """The function of `fn` as it is now; text is the name of a task that workers have registered.

        `name`: what it is called in output and errors, where that is not its own name.
        """
        if isinstance(fn, str):
            return self._named(fn)
        plain = type(fn) is FunctionType
        key = id(fn.__code__ if plain else fn)
        known = self._known.get(key)
        if known is not None:
            function, owner, scope, cells, defaults, captured = known
            if scope is None:
                if owner is fn:
                    return function
            elif (
                scope is fn.__globals__
                and (
                    fn.__closure__ is cells
                    or _same([cell.cell_contents for cell in fn.__closure__ or ()], cells)
                )
                and (fn.__defaults__ is defaults or _same(fn.__defaults__, defaults))
                and (not captured or _unchanged(captured))
            ):
                return function
        elif (alias := self._aliases.get(key)) is not None and alias[0] is fn:
            return self.find(alias[1])
        with self._lock:
            return self._learn(fn, key, name or name_of(fn))

    def _named(self, name: str) -> Function:
        if not self._has_names:
            raise unknown(name, ())
        with self._lock:
            return self.adopt(name, b"")

    def _learn(self, fn: Any, key: int, name: str) -> Function:
        if is_importable(fn, by_value=self._by_value):  # by reference: a name, the same for ever
            function = self._packed(fn, name)
            self._keep(key, _Known(function, fn))
            return function
        if isinstance(fn, Named) and (plain := fn.plain) is not None:
            found = self.find(plain, name)
            if len(self._aliases) >= _KEPT_MAX:
                self._aliases.clear()
            self._aliases[key] = fn, plain
            return found
        captured = captures(fn, by_value=self._by_value) if type(fn) is FunctionType else None
        variants = self._variants[key] = self._variants.get(key, 0) + (key in self._known)
        if captured is None or variants > _VARIANTS_MAX:
            return self.adopt(name, None)
        function = self._packed(fn, name)
        cells = fn.__closure__ and tuple(cell.cell_contents for cell in fn.__closure__)
        self._keep(key, _Known(function, fn, fn.__globals__, cells, fn.__defaults__, captured))
        return function

    def _keep(self, key: int, known: _Known) -> None:
        if len(self._known) >= _KEPT_MAX:
            self._known.clear()
        self._known[key] = known

    def _packed(self, fn: Callable[..., Any], name: str) -> Function:
        packed, _ = Pickler(None, hold, by_value=self._by_value).pack(fn)
        # Large captures travel with the call.
        return self.adopt(name, packed if type(packed) is bytes else None)


def name_of(fn: Any) -> str:
    """What a function is called in output and errors."""
    if isinstance(fn, functools.partial):
        return name_of(fn.func)
    if isinstance(fn, Named):
        return fn.name
    name: str = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return name


def is_importable(fn: Any, *, by_value: bool = False) -> bool:
    """Whether `fn` is found under its own name in a module that workers have (`by_value`: only installed ones)."""
    if type(fn) is BuiltinFunctionType and not isinstance(fn.__self__, ModuleType | None):
        return False
    module = sys.modules.get(getattr(fn, "__module__", None) or "")
    if module is None or module.__name__ == "__main__":
        return type(fn) is BuiltinFunctionType and fn.__self__ is None
    if by_value and not is_installed(module.__name__):
        return False
    found: Any = module
    for step in getattr(fn, "__qualname__", "<no name>").split("."):
        found = getattr(found, step, None)
    return found is fn


def captures(fn: FunctionType, *, by_value: bool = False) -> tuple[Capture, ...] | None:
    """What `fn` captures beside its own cells and defaults; None unless all of it can be compared by identity.

    A name that is bound nowhere yet is captured as missing: it may be bound before the next submit.
    """
    captured: list[Capture] = []
    seen: set[int] = set()
    work = [fn]
    while work:
        function = work.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        if function.__kwdefaults__ or function.__dict__ or (function is not fn and function.__defaults__):
            return None
        values = list(function.__defaults__ or ())
        for cell in function.__closure__ or ():
            try:
                values.append(cell.cell_contents)
            except ValueError:
                return None
            if function is not fn:
                captured.append((cell, None, values[-1]))
        scope = function.__globals__
        for name in names(function.__code__):
            value = scope.get(name, _MISSING)
            if value is not _MISSING:
                values.append(value)
            if value is not _MISSING or not hasattr(builtins, name):
                captured.append((scope, name, value))
        for value in values:
            if isinstance(value, Named) and value.plain is not None:
                value = value.plain  # noqa: PLW2901 - all else about it stays as it is
            if type(value) is FunctionType and not is_importable(value, by_value=by_value):
                work.append(value)
            elif not (
                type(value) in ATOMS
                or isinstance(value, ModuleType)
                or is_importable(value, by_value=by_value)
            ):
                return None
    return tuple(captured)


def _same(now: Sequence[Any] | None, then: Sequence[Any] | None) -> bool:
    if now is None or then is None:
        return not now and not then
    return len(now) == len(then) and all(map(is_, now, then))


def _unchanged(captured: tuple[Capture, ...]) -> bool:
    for place, name, value in captured:
        if (place.cell_contents if name is None else place.get(name, _MISSING)) is not value:
            return False
    return True
