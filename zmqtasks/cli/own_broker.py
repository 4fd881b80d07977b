"""A broker and workers as processes of this program's own: with keys, a port and a folder that nobody else has.

They end with it, however it ends: each reads its standard input, which ends when this process does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from zmqtasks.cli.exits import CommandError, Exit

__all__ = ["own_broker"]

_BOOT = """\
import os, signal, sys, threading
folder = sys.argv[1]
def watch():
    os.read(0, 1)  # until nobody holds the other end
    if folder:
        import shutil
        shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
from zmqtasks.cli import main
sys.exit(main(sys.argv[2:]))
"""
_LISTENS = re.compile(r"listens at (tcp://\S+?)[;,]")
_END_S = 5.0


@contextmanager
def own_broker(workers: int, children: int) -> Iterator[tuple[str, Path]]:
    """Start a broker and `workers` workers with `children` children each; its address, and a client's key file."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="zmqtasks-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        broker = stack.enter_context(_process(folder, "broker", "--bind", "tcp://127.0.0.1:*", last=folder))
        address = _address(broker)
        for number in range(workers):
            arguments = ("-c", str(children), "--name", f"worker{number + 1}", "--log-level", "warning")
            stack.enter_context(_process(folder, "worker", address, *arguments))
        yield address, folder / "keys" / "client.key"


@contextmanager
def _process(
    folder: Path, command: str, *arguments: str, last: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a command of this program; where this process is killed, the command deletes the folder `last`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZMQTASKS_")}
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", _BOOT, str(last or ""), command, *arguments],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE if command == "broker" else None,
        text=True,
        cwd=folder,  # no configuration file of the user's is meant for these
        env={**environment, "PYTHONPATH": path, "ZMQTASKS_KEYS": str(folder / "keys")},
        start_new_session=True,  # Ctrl-C at the terminal is this process's alone
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            process.kill()


def _address(broker: subprocess.Popen[str]) -> str:
    """Where it listens, as it says."""
    assert broker.stderr is not None
    said = []
    for line in broker.stderr:
        if found := _LISTENS.search(line):
            return found[1]
        said.append(line.strip())
    raise CommandError(f"the broker has not started: {' '.join(said)}", Exit.NO_CONNECTION)
