"""The functions that a child has been sent, loaded when they are first called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from zmqtasks import payload as payloads
from zmqtasks.named import is_async, register, registered

if TYPE_CHECKING:
    from zmqtasks.messages import Value

__all__ = ["Loaded", "blocking", "inputs_of", "register"]


class Loaded:
    """Functions by number: `sent` are names and bytes, as they came; `ready` what can be called."""

    def __init__(self) -> None:
        self.sent: dict[int, tuple[str, bytes | None]] = {}
        self.ready: dict[int, Callable[..., Any]] = {}

    def function(self, fn: int) -> Callable[..., Any]:
        """The one of that number."""
        function = self.ready.get(fn)
        if function is None:
            name, data = self.sent[fn]
            assert data is not None, "a function without bytes comes with its arguments"
            function = payloads.load(data) if data else registered(name)
            self.ready[fn] = function
        return function

    def call(self, fn: int, arguments: Any) -> Any:
        """Call with what was pickled as a call."""
        if type(arguments) is tuple:
            return self.function(fn)(*arguments)
        args, kwargs, *rest = arguments
        return (rest[0] if rest else self.function(fn))(*args, **kwargs)


def blocking(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`; of one that awaits, what waits for its value."""
    if not is_async(function):
        return function
    from asyncio import run

    return lambda *args: run(function(*args))


def inputs_of(values: Iterable[Value], cluster_id: str) -> list[Any]:
    """The values of the futures among the arguments."""
    inputs: list[Any] = []
    for value in values:
        found = payloads.load(value.payload, None, cluster_id)
        inputs.append(found if value.index < 0 else found[value.index])
    return inputs
