"""Ray on this machine: its own store, scheduler and a process a worker, started by `ray.init`.

Its own ways: functions become remote ones, once each; `ray.get` of a list; the map in tasks of `CHUNK` items.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any

from bench.contestants import CHUNK, Pool
from bench.peers import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # or it tells its makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what it will do one day, instead of a warning that it will
}


def absent() -> str | None:
    """Say why Ray cannot take part, None if it can."""
    return missing("ray")


def _map_chunk(fn: Callable[[int], object], items: Sequence[int]) -> list[object]:
    return [fn(item) for item in items]


def start(workers: int) -> tuple[Any, Callable[[], None]]:
    """Start Ray with as many CPUs as workers, whatever the machine has, its files in a folder that goes with it."""
    os.environ.update(QUIET)
    ray: Any = importlib.import_module("ray")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        stack.callback(ray.shutdown)
        ray.init(
            "local",  # and no cluster that the environment names
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        return ray, stack.pop_all().close


def open_pool(workers: int) -> Pool:
    """Single tasks by remote functions."""
    ray, close = start(workers)
    remote = cache(ray.remote)

    def submit(fn: Callable[..., object], *args: object) -> Any:
        return remote(fn).remote(*args)

    def bulk(fn: Callable[[int], object], items: Sequence[int]) -> list[object]:
        map_chunk = remote(_map_chunk)
        chunks = [map_chunk.remote(fn, items[at : at + CHUNK]) for at in range(0, len(items), CHUNK)]
        return [value for values in ray.get(chunks) for value in values]

    return Pool(submit=submit, result=ray.get, collect=ray.get, bulk=bulk, close=close)
