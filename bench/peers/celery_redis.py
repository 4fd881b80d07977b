"""Celery with Redis as broker and as store of results: a redis-server and a worker of its own, both on one socket.

The socket lies in a folder that only this user enters: arguments are pickled, as Celery has no other way to carry
arrays, and whoever could write there could run code here. Nothing of Redis is written to disk.

Its own ways: one task that calls what it is given, `delay`, `get`, and `chunks`; all settings are its defaults but
the serializer.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contestants import CHUNK, Pool
from bench.peers import missing
from bench.tasks import lag, stamp, step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SOCKET = "BENCH_REDIS_SOCKET"
"""The environment variable that tells the worker where Redis is."""

START_S_MAX = 60.0
STOP_S_MAX = 10.0


def absent() -> str | None:
    """Say why Celery cannot take part, None if it can."""
    return missing("celery", "redis", program="redis-server")


def application(socket: str) -> Any:
    """Make the Celery application, the same in client and worker: `call` for all, and what workflows are made of."""
    celery: Any = importlib.import_module("celery")
    url = f"redis+socket://{socket}"
    app = celery.Celery("bench", broker=url, backend=url)
    app.conf.update(
        task_serializer="pickle",
        result_serializer="pickle",
        accept_content=["pickle"],
        broker_connection_retry_on_startup=True,
    )

    @app.task(name="call")
    def call(fn: Callable[..., object], *args: object) -> object:
        return fn(*args)

    for fn in (stamp, lag, step):
        app.task(name=fn.__name__)(fn)
    return app


def __getattr__(name: str) -> Any:
    """Make the application on the worker's demand: `celery -A bench.peers.celery_redis` looks for `app`."""
    if name == "app" and SOCKET in os.environ:
        return application(os.environ[SOCKET])
    raise AttributeError(name)


@contextmanager
def _running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; at the end ask it to stop, and kill it if it does not."""
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=os.environ | environment
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until(is_there: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a server; raises RuntimeError with its last line if it ends or takes too long."""
    deadline, tick = time.monotonic() + START_S_MAX, threading.Event()
    while not is_there():
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"{log.stem} did not start: {(lines or ['?'])[-1]}")
        tick.wait(0.02)


def _redis(stack: ExitStack, folder: Path) -> str:
    socket, log = folder / "redis.socket", folder / "redis.log"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no"]
    process = stack.enter_context(_running(command, log, {}))
    _wait_until(socket.exists, process, log)
    return str(socket)


def _worker(stack: ExitStack, folder: Path, socket: str, workers: int) -> Callable[[Callable[[], Any]], None]:
    log = folder / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", __name__, "worker", "-c", str(workers), "-l", "ERROR"]
    # As root it refuses to unpickle, unless told that we know who sends.
    process = stack.enter_context(_running(command, log, {SOCKET: socket, "C_FORCE_ROOT": "1"}))
    return lambda is_there: _wait_until(is_there, process, log)


def open_application(workers: int) -> tuple[Any, Callable[[], None]]:
    """Start a Redis and a prefork worker with that many children, wait until it answers: the application, its end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        socket = _redis(stack, folder)
        wait_until = _worker(stack, folder, socket, workers)
        app = application(socket)
        stack.callback(app.close)
        wait_until(lambda: app.control.ping(timeout=0.5))
        return app, stack.pop_all().close


def open_pool(workers: int) -> Pool:
    """Single tasks by `call`."""
    app, close = open_application(workers)
    call = app.tasks["call"]

    def bulk(fn: Callable[[int], object], items: Sequence[int]) -> list[object]:
        chunks = call.chunks(((fn, item) for item in items), CHUNK)().get()
        return [value for values in chunks for value in values]

    return Pool(
        submit=call.delay,
        result=lambda handle: handle.get(),
        collect=lambda handles: [handle.get() for handle in handles],
        bulk=bulk,
        close=close,
    )
