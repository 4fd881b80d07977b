"""The contestants, each behind the same few callables.

Nothing is wrapped that is called once a task, except `multiprocessing.Pool.apply_async`, which takes a tuple.
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

WORKERS = 2
"""Child processes of every pool, unless a question says otherwise."""

CHUNK = 1000
"""Items a chunk in the bulk map of the two executors whose own default is one."""

REFERENCE = "ProcessPoolExecutor"
"""The contestant that ratios refer to."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What a question may do with a contestant: `result` and `collect` wait, `bulk` is an ordered map."""

    submit: Callable[..., Any]
    result: Callable[[Any], Any]
    collect: Callable[[Sequence[Any]], list[Any]]
    bulk: Callable[[Callable[[int], object], Sequence[int]], list[object]]
    close: Callable[[], object]


def _result(future: Any) -> Any:
    return future.result()


def _collect(futures: Sequence[Any]) -> list[Any]:
    return [future.result() for future in futures]


def _zmqtasks(workers: int) -> Pool:
    client = importlib.import_module("zmqtasks").Client(workers=workers)
    return Pool(client.submit, _result, _collect, lambda fn, items: list(client.map(fn, items)), client.close)


def _executor(executor: Any) -> Pool:
    return Pool(
        submit=executor.submit,
        result=_result,
        collect=_collect,
        bulk=lambda fn, items: list(executor.map(fn, items, chunksize=CHUNK)),
        close=executor.shutdown,
    )


def _process_pool_executor(workers: int) -> Pool:
    return _executor(importlib.import_module("concurrent.futures").ProcessPoolExecutor(workers))


def _loky(workers: int) -> Pool:
    return _executor(importlib.import_module("loky").ProcessPoolExecutor(workers))


def _multiprocessing(workers: int) -> Pool:
    pool = importlib.import_module("multiprocessing").Pool(workers)

    def close() -> None:
        pool.close()
        pool.join()

    return Pool(
        submit=lambda fn, *args: pool.apply_async(fn, args),
        result=lambda handle: handle.get(),
        collect=lambda handles: [handle.get() for handle in handles],
        bulk=pool.map,
        close=close,
    )


_OPEN: dict[str, Callable[[int], Pool]] = {
    "zmqtasks": _zmqtasks,
    REFERENCE: _process_pool_executor,
    "multiprocessing.Pool": _multiprocessing,
    "loky": _loky,
}

CONTESTANTS = tuple(_OPEN)
"""The names of all contestants, in the order of their turns."""


def open_pool(name: str, workers: int = WORKERS) -> Pool:
    """Start the contestant called `name` with `workers` children; its caller closes it."""
    return _OPEN[name](workers)


@contextmanager
def pool_of(name: str) -> Iterator[Pool]:
    """Open a pool of `WORKERS` children, close it at the end; they have all run something."""
    pool = open_pool(name)
    try:
        spin = importlib.import_module("bench.tasks").spin
        pool.collect([pool.submit(spin, 0.001) for _ in range(50)])
        yield pool
    finally:
        pool.close()


def why_absent(name: str) -> str | None:
    """Say why a contestant cannot take part, None if it can."""
    try:
        if name == "zmqtasks":
            importlib.import_module("zmqtasks").Client  # noqa: B018  (is it there?)
        elif name == "loky":
            importlib.import_module("loky")
    except (ImportError, AttributeError) as error:
        return str(error)
    return None
