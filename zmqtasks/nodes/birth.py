"""How a forked process becomes a child, and how what a task forks is none."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
from typing import NoReturn

from zmqtasks import files
from zmqtasks.nodes import child, loaded
from zmqtasks.nodes.link import Closed


def main(
    data: int, control: int, claim: memoryview, log_level: int, cluster: tuple[str, int, int], app: str = ""
) -> NoReturn:
    """Be a child on these sockets until the host closes or is gone, with the tasks of `app`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.enable(all_threads=False)
    # Where memory runs out, the child goes and not the host.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123 - a child starts without pathlib
        score.write("500")
    os.register_at_fork(after_in_child=_be_no_child)
    files.begin_keeping()
    child.RUNNING = this = child.Child(data, control, claim, log_level, cluster)
    threading.Thread(target=this.serve, name="zmqtasks-service", daemon=True).start()
    try:
        loaded.register(app)
        this.run()
    except (Closed, OSError):
        os._exit(0)


def _be_no_child() -> None:
    """A task has forked, and this is the copy: the links are not its own, and it is no worker."""
    if child.RUNNING is not None:
        child.RUNNING.data.sock.close()
        child.RUNNING.control.sock.close()
        child.RUNNING = None
