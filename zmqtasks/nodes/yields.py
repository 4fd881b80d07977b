"""Items of generators on their way to the host, while they run: soon, and many together where they come fast."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable
from types import GeneratorType
from typing import Any

from zmqtasks.errors import ZmqTasksError
from zmqtasks.nodes.failure import unpicklable
from zmqtasks.streamed import STREAM_BYTES_MAX, Streamed, pack
from zmqtasks.visit import Yielded

_EVERY_S = 0.002


class Yields:
    """Those of one child: sent by a thread of its own."""

    def __init__(self, send: Callable[[Yielded], None]) -> None:
        self._send = send
        self._pending: dict[int, Yielded] = {}  # by task
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._pause = threading.Event()  # never set: its wait is the pause
        threading.Thread(target=self._run, name="zmqtasks-yields", daemon=True).start()

    def drain(self, id_: int, generator: GeneratorType[Any, Any, Any]) -> Any:
        """Run it to its end. An expression is no generator task: whoever returns one has meant a list."""
        if generator.gi_code.co_name == "<genexpr>":
            return generator
        items = _Items(self, id_)
        try:
            while True:
                try:
                    value = next(generator)
                except StopIteration as end:
                    return Streamed(end.value, tuple(items.kept))
                items.add(value)
        finally:
            generator.close()
            self.forget(id_)

    async def drain_async(self, id_: int, generator: AsyncGenerator[Any, Any]) -> Streamed:
        """The same for one that awaits, which returns nothing."""
        items = _Items(self, id_)
        try:
            async for value in generator:
                items.add(value)
            return Streamed(None, tuple(items.kept))
        finally:
            await generator.aclose()
            self.forget(id_)

    def put(self, id_: int, index: int, packed: bytes) -> None:
        """Item `index` of task `id_`."""
        with self._lock:
            pending = self._pending.get(id_)
            if pending is None:
                pending = self._pending[id_] = Yielded(id_, index, [])
            pending.items.append(packed)
        self._some.set()

    def forget(self, id_: int) -> None:
        """The task is over: all that has not gone out goes with its outcome."""
        with self._lock:
            self._pending.pop(id_, None)

    def _run(self) -> None:
        while self._some.wait():
            self._some.clear()
            with self._lock:
                pending, self._pending = self._pending, {}
                for yielded in pending.values():
                    self._send(yielded)  # with the lock: nothing goes out after its outcome
            self._pause.wait(_EVERY_S)


class _Items:
    """The items of one task so far."""

    def __init__(self, yields: Yields, id_: int) -> None:
        self.kept: list[bytes] = []
        self._yields = yields
        self._id = id_
        self._bytes = 0

    def add(self, value: Any) -> None:
        try:
            packed = pack(value)
        except Exception as error:  # noqa: BLE001 - whatever pickling raises
            raise unpicklable(value, error) from None
        self._bytes += len(packed)
        if self._bytes > STREAM_BYTES_MAX:
            raise ZmqTasksError(
                f"the items of a generator have {STREAM_BYTES_MAX >> 20} MiB at most together, pickled, and these more"
            )
        self._yields.put(self._id, len(self.kept), packed)
        self.kept.append(packed)
