"""A worker as a process of this one's own: it ends with it, however that ends, and is started anew when it dies."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from time import monotonic

from zmqtasks.nodes.household import Plan
from zmqtasks.nodes.loop import Loop

_BOOT = """\
import sys
n = int(sys.argv[1])
sys.path[:] = sys.argv[2 : 2 + n]
from zmqtasks.nodes.worker import main
main(*sys.argv[2 + n :])
"""
_END_S = 5.0  # what it may take to end when it was asked to
_YOUNG_S = 5.0  # whoever dies younger has not come up
_DEATHS_MAX = 3  # in a row, that young


class OwnWorker:
    """Started by `start`; `ended` is to be called when its descriptor is ready."""

    def __init__(
        self, loop: Loop, address: str, plan: Plan, *, keys: str, output: int | None, folder: str
    ) -> None:
        self.is_broken = False  # it does not come up
        self.has_come = False  # it has been to the door
        self._loop = loop
        self._address, self._plan = address, plan
        self._keys = keys  # the folder of the store that has its key
        self._output = output  # where what tasks print goes; None: where this process prints
        self._folder = folder  # to be deleted when this process dies
        self._deaths = 0
        self._started = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._life = -1  # a pipe that ends when it does
        self.start()

    def start(self) -> None:
        """Start it."""
        path = [entry for entry in sys.path if isinstance(entry, str)]  # type: ignore[redundant-expr]  # anybody writes to it
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does
        plan = self._plan
        self._life, theirs = os.pipe()
        about = [
            self._address,
            self._keys,
            str(plan.slots),
            str(plan.cpus),
            plan.name,
            self._folder,
            str(theirs),
        ]
        self._started, self.has_come = monotonic(), False
        try:
            self._process = subprocess.Popen(
                [sys.executable, *flags, "-c", _BOOT, str(len(path)), *path, *about],
                stdin=subprocess.PIPE,
                stdout=self._output,
                pass_fds=(theirs,),
                start_new_session=True,  # Ctrl-C at the terminal is for this process alone
            )
        finally:
            os.close(theirs)
        self._loop.watch(self)

    def fileno(self) -> int:
        """Ready when it has ended."""
        return self._life

    @property
    def pid(self) -> int:
        """Its process; 0 if there is none."""
        return self._process.pid if self._process is not None else 0

    def ended(self) -> None:
        """It has died: another one, unless none comes up. One that worked may be killed as often as somebody likes."""
        status = self._forget()
        young = monotonic() - self._started < _YOUNG_S and not (self.has_come and status < 0)
        self._deaths = self._deaths + 1 if young else 0
        self.is_broken = self._deaths >= _DEATHS_MAX
        if not self.is_broken:
            self.start()

    def _forget(self) -> int:
        """Wait for its end; its exit code."""
        status = 0
        if self._life >= 0:
            self._loop.unwatch(self._life)
            os.close(self._life)
            self._life = -1
        if (process := self._process) is not None:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            process.kill()
            status = process.wait()
            self._process = None
        return status

    def leave(self) -> None:
        """Close what this process, a forked one, inherited: it must not be what keeps the worker alive."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.returncode = 0  # not this process's child
            os.close(self._life)

    def close(self) -> None:
        """End it, and wait for that."""
        self._forget()
