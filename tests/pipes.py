"""Pipelines whose workers are processes of their own, for tests that kill, stop, cut and refuse them."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from conftest import until
from fleet import WORKER, Process, _environment

from zmqtasks import Ventilator

LOOPBACK = "tcp://127.0.0.1:*"
HERE_S = 20.0


class Pipes:
    """`with Pipes() as pipes:` a pipeline and workers that know its keys; all of it ends with the block."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="zmqtasks-test-"))
        self.keys = Path(folder) / "keys"
        self.workers: list[Process] = []

    def ventilator(
        self, fn: Callable[[Any], Any], *, bind: str | None = LOOPBACK, **options: Any
    ) -> Ventilator[Any, Any]:
        """A pipeline, closed with the block."""
        with _environment("ZMQTASKS_KEYS", str(self.keys)):
            return self._stack.enter_context(Ventilator(fn, bind=bind, **options))

    def worker(self, address: str, slots: int = 1, **plan: Any) -> Process:
        """A worker node for it."""
        plan = {"slots": slots, "cpus": slots, "name": f"worker{len(self.workers)}", **plan}
        process = Process(WORKER, address, repr(plan), keys=self.keys)
        self._stack.callback(process.end)
        self.workers.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


def wait_for(pipeline: Ventilator[Any, Any], *names: str) -> None:
    """Wait until exactly these workers are there, and take work."""

    def are_here() -> bool:
        node = pipeline._pipe.node
        return sorted(pipeline.workers) == sorted(names) and len(node._stream.hands) == len(names)

    until(are_here, HERE_S)


def own_worker(pipeline: Ventilator[Any, Any]) -> psutil.Process:
    """The process of the worker that the pipeline has started for itself."""
    pid = until(lambda: pipeline._pipe.node._own.pid)
    return psutil.Process(pid)


def repeated_or_missing(found: Iterable[tuple[int, Any]], count: int) -> dict[int, int]:
    """How often those indexes came that did not come exactly once, of `count`."""
    times = Counter(index for index, _ in found)
    return {index: times[index] for index in {*range(count), *times} if times[index] != 1}
