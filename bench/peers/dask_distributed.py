"""Dask: a LocalCluster, that is a scheduler in this process and a process of one thread a worker.

Its own ways: `submit` with `pure=False`, or equal calls would be one task; `gather`; a bag in partitions.
"""

from __future__ import annotations

import importlib
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bench.contestants import CHUNK, Pool
from bench.peers import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def absent() -> str | None:
    """Say why Dask cannot take part, None if it can."""
    return missing("dask", "distributed")


def open_client(workers: int) -> tuple[Any, Callable[[], None]]:
    """Start a scheduler and the workers, without a dashboard, their files in a folder that goes with them."""
    dask: Any = importlib.import_module("dask")
    distributed: Any = importlib.import_module("distributed")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        # Not all of its parts look at local_directory.
        stack.enter_context(dask.config.set({"temporary-directory": folder}))
        cluster = stack.enter_context(
            distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                local_directory=folder,
            )
        )
        client = stack.enter_context(distributed.Client(cluster))
        return client, stack.pop_all().close


def open_pool(workers: int) -> Pool:
    """Single tasks by `submit`."""
    bag: Any = importlib.import_module("dask.bag")
    client, close = open_client(workers)

    def submit(fn: Callable[..., object], *args: object) -> Any:
        return client.submit(fn, *args, pure=False)

    def bulk(fn: Callable[[int], object], items: Sequence[int]) -> list[object]:
        values: list[object] = bag.from_sequence(items, partition_size=CHUNK).map(fn).compute()
        return values

    return Pool(
        submit=submit,
        result=lambda future: future.result(),
        collect=client.gather,
        bulk=bulk,
        close=close,
    )
