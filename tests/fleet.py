"""A broker and worker nodes, each a process of its own, for tests that kill, stop and cut them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from conftest import free_port, python_environment, until

from zmqtasks import Client

if TYPE_CHECKING:
    from types import TracebackType

BROKER = """
import signal, sys
from zmqtasks.keys import KeyStore
from zmqtasks.nodes.broker import Broker
broker = Broker([sys.argv[1]], KeyStore(), **eval(sys.argv[2]))
signal.signal(signal.SIGTERM, lambda *_: broker.stop())
print(broker.address, flush=True)
broker.run()
"""
WORKER = """
import logging, signal, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from zmqtasks.keys import load
from zmqtasks.nodes.worker import Plan, Worker
from zmqtasks.nodes.zap import keypair
address = sys.argv[1]
worker = Worker(address, load(None, "worker", keypair, address=address), Plan(**eval(sys.argv[2])))
signal.signal(signal.SIGTERM, lambda *_: worker.stop())
sys.exit(worker.run() or 0)
"""


class Process:
    """One of them, the leader of its group."""

    def __init__(self, code: str, *arguments: str, keys: Path) -> None:
        environment = {**python_environment(), "ZMQTASKS_KEYS": str(keys)}
        path = [str(Path(__file__).parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        self._popen = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            text=True,
            start_new_session=True,
        )
        self.pid = self._popen.pid

    def line(self) -> str:
        """The next line that it prints."""
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 20) -> int:
        """Its exit code, once it has ended."""
        return self._popen.wait(timeout_s)

    def end(self) -> None:
        """Kill it, and what is in its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        assert self._popen.stdout is not None
        self._popen.stdout.close()


class Fleet:
    """`with Fleet(nodes=2) as fleet:` a broker, nodes and clients that know its keys; all of it ends with the block."""

    def __init__(self, nodes: int = 0, slots: int = 2, **broker: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="zmqtasks-test-")
        self.keys = Path(self._folder.name) / "keys"
        self._options = broker
        self.nodes: list[Process] = []
        self._clients: list[Client] = []
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._folder.cleanup)
        try:
            self.broker = self.start_broker()
            for _ in range(nodes):
                self.start_node(slots)
        except BaseException:
            self._stack.close()
            raise

    def start_broker(self, address: str = "") -> Process:
        """Another broker; `address` is where it listens."""
        address = address or f"tcp://127.0.0.1:{free_port()}"  # which another one may have again
        process = Process(BROKER, address, repr(self._options), keys=self.keys)
        self._stack.callback(process.end)
        self.address = process.line()
        assert self.address, "the broker has not started"
        return process

    def start_node(self, slots: int = 2, address: str | None = None, **plan: Any) -> Process:
        """A worker node."""
        plan = {"slots": slots, "cpus": slots, "name": f"node{len(self.nodes)}", **plan}
        process = Process(WORKER, address or self.address, repr(plan), keys=self.keys)
        self._stack.callback(process.end)
        self.nodes.append(process)
        return process

    def client(self, address: str | None = None, **options: Any) -> Client:
        """A client, closed with the block."""
        with _environment("ZMQTASKS_KEYS", str(self.keys)):
            client = Client(address or self.address, **options)
        self._clients.append(client)
        return client

    def wait_for(self, client: Client, nodes: int) -> None:
        """Wait until the broker has so many nodes."""
        until(lambda: len(client.inspect.status()["workers"]) == nodes, within_s=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for client in self._clients:
                client._host.close(wait=True, cancel=True, kill=True)
        finally:
            self._stack.close()


@contextlib.contextmanager
def _environment(name: str, value: str) -> Any:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
