"""The contestants, each behind the same few callables; those in `bench.peers` are imported on demand.

Nothing is wrapped that is called once a task, except `multiprocessing.Pool.apply_async`, which takes a tuple.
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bench import peers

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


def _brokered(workers: int, *, curve: bool = True) -> Pool:
    client, end = importlib.import_module("bench.brokered").open_client(workers, curve=curve)
    return Pool(client.submit, _result, _collect, lambda fn, items: list(client.map(fn, items)), end.close)


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
    "zmqtasks-brokered": _brokered,
    "zmqtasks-brokered-ipc": partial(_brokered, curve=False),
    REFERENCE: _process_pool_executor,
    "multiprocessing.Pool": _multiprocessing,
    "loky": _loky,
}

_PEERS = {
    "raw-ROUTER": ("raw_router", "open_pool", "absent"),
    "raw-ROUTER+CURVE": ("raw_router", "open_pool_with_curve", "absent_with_curve"),
    "Celery-Redis": ("celery_redis", "open_pool", "absent"),
    "Dask": ("dask_distributed", "open_pool", "absent"),
    "Ray": ("ray_local", "open_pool", "absent"),
}
"""The module in `bench.peers`, what opens the pool in it, and what says why that cannot be."""


def _of_peer(name: str, *, absent: bool = False) -> Callable[..., Any]:
    module, opens, says = _PEERS[name]
    found: Callable[..., Any] = getattr(
        importlib.import_module(f"bench.peers.{module}"), says if absent else opens
    )
    return found


CONTESTANTS = (*_OPEN, *_PEERS)
"""The names of all contestants, in the order of their turns."""


def open_pool(name: str, workers: int = WORKERS) -> Pool:
    """Start the contestant called `name` with `workers` children; its caller closes it."""
    return (_OPEN[name] if name in _OPEN else _of_peer(name))(workers)


@contextmanager
def pool_of(name: str, workers: int = WORKERS) -> Iterator[Pool]:
    """Open a pool of `workers` children, close it at the end; they have all run something."""
    pool = open_pool(name, workers)
    try:
        spin = importlib.import_module("bench.tasks").spin
        pool.collect([pool.submit(spin, 0.001) for _ in range(25 * workers)])
        yield pool
    finally:
        pool.close()


def is_peer(name: str) -> bool:
    """Whether a contestant is of `bench.peers`."""
    return name in _PEERS


def is_asked(name: str, question: str) -> bool:
    """Whether a contestant is asked that question: the peers are asked a few only."""
    return not is_peer(name) or question in peers.QUESTIONS


def why_absent(name: str) -> str | None:
    """Say why a contestant cannot take part, None if it can."""
    try:
        if is_peer(name):
            reason: str | None = _of_peer(name, absent=True)()
            return reason
        if name.startswith("zmqtasks"):
            importlib.import_module("zmqtasks").Client  # noqa: B018  (is it there?)
        elif name == "loky":
            importlib.import_module("loky")
    except (ImportError, AttributeError) as error:
        return str(error)
    return None
