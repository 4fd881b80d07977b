"""A broker and one worker node for many tests: processes of their own that live as long as the test run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
from conftest import has_ended, kept, python_environment, until
from fleet import BROKER, WORKER

from zmqtasks import Client

# They end with the test run, however that ends.
_LEASH = "import ctypes; ctypes.CDLL(None).prctl(1, 9)\n"
READY_S = 20.0


class Cluster:
    """A broker, and a node with `slots` children; what they write goes to a file."""

    def __init__(self, slots: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="zmqtasks-test-")
        self.slots = slots
        self.log = Path(self._folder.name) / "log"
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._folder.cleanup)
        self.keys = str(Path(self._folder.name) / "keys")
        try:
            self.pids = [self._start(BROKER, "tcp://127.0.0.1:*", "{}")]
            self.address = until(self._address, READY_S)
            self.pids.append(
                self._start(WORKER, self.address, repr({"slots": slots, "cpus": slots, "name": "node"}))
            )
            with self.client() as client:
                until(lambda: client.workers == slots and client.inspect.status()["workers"], READY_S)
                client.submit(int).result(READY_S)
        except BaseException:
            self.end()
            raise

    def _address(self) -> str:
        first, end, _ = self.log.read_text().partition("\n")
        return first if end else ""

    def _start(self, code: str, *arguments: str) -> int:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _LEASH + code, *arguments],
                env={**python_environment(), "ZMQTASKS_KEYS": self.keys},
                cwd=self._folder.name,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        kept.add(process.pid)
        self._stack.callback(self._end, process)
        return process.pid

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        try:
            with contextlib.suppress(psutil.NoSuchProcess):
                below = psutil.Process(process.pid).children(recursive=True)
                os.killpg(process.pid, signal.SIGKILL)
                until(lambda: all(has_ended(child.pid) for child in below))
        finally:
            process.kill()
            process.wait()
            kept.discard(process.pid)

    def client(self, **options: Any) -> Client:
        """A client of this broker, once nothing is left there of the tests before."""
        before = os.environ.get("ZMQTASKS_KEYS")
        os.environ["ZMQTASKS_KEYS"] = self.keys
        try:
            return Client(self.address, **options)
        finally:
            del os.environ["ZMQTASKS_KEYS"]
            if before is not None:
                os.environ["ZMQTASKS_KEYS"] = before

    def is_fit(self) -> bool:
        """Whether it is there, and nothing of the tests before runs in it."""
        if any(has_ended(pid) for pid in self.pids):
            return False
        with self.client() as client:

            def idle() -> bool:
                status = client.inspect.status()
                pending = ("QUEUED", "WAITING", "SCHEDULED", "RUNNING")
                return bool(status["workers"]) and not any(status["tasks"].get(each, 0) for each in pending)

            try:
                until(idle, 5)
            except BaseException:  # noqa: BLE001 - pytest's own
                return False
        return True

    def end(self) -> None:
        """End all of it."""
        self._stack.close()


class Clusters:
    """One by number of slots, started when it is first needed, and anew if a test has spoiled it."""

    def __init__(self) -> None:
        self._by_slots: dict[int, Cluster] = {}

    def get(self, slots: int) -> Cluster:
        """That with so many slots."""
        cluster = self._by_slots.get(slots)
        if cluster is not None and not cluster.is_fit():
            self._by_slots.pop(slots).end()
            cluster = None
        if cluster is None:
            cluster = self._by_slots[slots] = Cluster(slots)
        return cluster

    def end(self) -> None:
        """End all of them."""
        while self._by_slots:
            self._by_slots.popitem()[1].end()
