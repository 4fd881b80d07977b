"""zmqtasks with a broker: the three processes that a user starts, on this machine, with a private folder for keys."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_BROKER = """
import sys
from zmqtasks.keys import KeyStore
from zmqtasks.nodes.broker import Broker
broker = Broker([sys.argv[1]], KeyStore())
print(broker.address, flush=True)
broker.run()
"""
_WORKER = """
import sys
from zmqtasks.keys import load
from zmqtasks.nodes.worker import Plan, Worker
from zmqtasks.nodes.zap import keypair
address, slots = sys.argv[1], int(sys.argv[2])
key = None if address.startswith("ipc:") else load(None, "worker", keypair, address=address)
Worker(address, key, Plan(slots, slots)).run()
"""


def open_client(workers: int, *, curve: bool) -> tuple[Any, contextlib.ExitStack]:
    """A client of a broker with one node of `workers` children, over tcp with CURVE or ipc without; and their end."""
    stack = contextlib.ExitStack()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    environment = {**os.environ, "ZMQTASKS_KEYS": str(folder / "keys")}
    where = "tcp://127.0.0.1:*" if curve else f"ipc://{folder}/broker"

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        return process

    try:
        output = start(_BROKER, where).stdout
        assert output is not None
        address = output.readline().strip()
        start(_WORKER, address, str(workers))
        before = os.environ.get("ZMQTASKS_KEYS")
        os.environ["ZMQTASKS_KEYS"] = environment["ZMQTASKS_KEYS"]
        try:
            client = __import__("zmqtasks").Client(address)
        finally:
            if before is None:
                del os.environ["ZMQTASKS_KEYS"]
            else:
                os.environ["ZMQTASKS_KEYS"] = before
        stack.callback(client.close)
    except BaseException:
        stack.close()
        raise
    return client, stack
