"""The process that children come from, and that sees to it that none is left behind.

A fresh interpreter that has imported what a child needs, runs no user code and has one thread, so that it may fork: a
child costs 3 ms and little memory, where an interpreter costs 60 ms. It is the parent of the children: it hears of
their deaths in the same millisecond. And it is their guardian: each child leads a process group, and orphans of theirs
become this process's own (PR_SET_CHILD_SUBREAPER), so that when the client closes, or is gone however it went
(the end of the stream says so), everything that came from here is killed before this process ends.

It speaks with its client over a socketpair of packets: `fork INDEX SESSION` with the child's two sockets beside it,
`kill INDEX` and `end INDEX ORDINAL ITEM` (kill it if it runs that) come in;
`forked INDEX PID`, `exited INDEX STATUS` (as `os.waitpid` gives it) go out.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import sys
from importlib import import_module
from typing import NoReturn

from zmqtasks.nodes import birth
from zmqtasks.nodes.claim import ITEM, ORDINAL, SINCE, Claims

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PACKET_BYTES = 4096
_IDLE_MS = 20
_STOP_MS = 50  # how long it is waited until a child stands still
_STANDS = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG if hasattr(os, "waitid") else 0  # not on macOS


def main(arguments: list[str]) -> NoReturn:
    """Serve until the client closes or is gone.

    Arguments: socket, claims, log level, cluster's id, workers, what to import once the first children run, the app
    that each of them imports for itself, *argv.
    """
    link, claims, log_level, cluster_id, workers, later, app, *argv = arguments
    sys.argv = argv or [""]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the client decides; its end is seen at the link
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Server(int(link), int(claims), int(log_level), (cluster_id, int(workers)), later, app).serve()


def prctl(option: int, value: int) -> None:
    """Linux's own; elsewhere there is none, and the end of the link alone has to do."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


class Server:
    """The children of one client."""

    def __init__(
        self, link: int, claims: int, log_level: int, cluster: tuple[str, int], later: str, app: str
    ) -> None:
        self._link = socket.socket(fileno=link)
        self._claims = Claims(claims)
        self._log_level = log_level
        self._cluster = cluster
        self._later = later
        self._app = app
        self._pids: dict[int, int] = {}  # index by pid
        self._poll = select.poll()
        self._wake_in, self._wake_out = os.pipe()
        for file in (self._wake_in, self._wake_out):
            os.set_blocking(file, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)

    def serve(self) -> NoReturn:
        """Fork, kill and reap until the link ends; then leave nothing behind."""
        self._poll.register(self._link, select.POLLIN)
        self._poll.register(self._wake_in, select.POLLIN)
        gc.freeze()  # what is here is every child's: the collector need not touch its pages
        while True:
            events = self._poll.poll(_IDLE_MS if self._later and self._pids else None)
            if not events:
                # What tasks that submit tasks need: later children have it, and the first did not wait for it.
                import_module(self._later)
                self._later = ""
                gc.freeze()
            for file, _ in events:
                if file == self._wake_in:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_in, _PACKET_BYTES)
                elif not self._command():
                    self._end()
            self._reap()

    def _command(self) -> bool:
        try:
            packet, files, _, _ = socket.recv_fds(self._link, _PACKET_BYTES, 2)
        except OSError:
            return False
        match packet.decode().split():
            case ["fork", index, peer]:
                self._fork(int(index), int(peer), files)
            case ["kill", index]:
                for pid, of in self._pids.items():
                    if of == int(index):
                        kill_group(pid)
            case ["end", index, ordinal, item]:
                self._end_task(int(index), int(ordinal), int(item))
            case _:
                return False
        return True

    def _end_task(self, index: int, ordinal: int, item: int) -> None:
        """Kill a child for what it runs, and only for that: it stands still while its claim is looked at."""
        for pid in [pid for pid, of in self._pids.items() if of == index]:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGSTOP)
            for _ in range(_STOP_MS):
                # It stands still, or has ended (and is left to be reaped), or is about to do either once the system
                # call that it is in lets go of it: it cannot run anything else before.
                if hasattr(os, "waitid") and os.waitid(os.P_PID, pid, _STANDS) is not None:
                    break
                select.select([], [], [], 0.001)
            claim = self._claims.of(index)
            if (claim[ORDINAL], claim[ITEM]) == (ordinal, item) and claim[SINCE]:
                kill_group(pid)
            else:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGCONT)

    def _fork(self, index: int, peer: int, files: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:  # no process left: the client will ask again
            for file in files:
                os.close(file)
            self._tell(f"failed {index} {error.errno}")
            return
        if pid == 0:
            self._become_child(index, peer, files)
        for file in files:
            os.close(file)
        with contextlib.suppress(OSError):  # it may be first, and may be gone
            os.setpgid(pid, pid)
        self._pids[pid] = index
        self._tell(f"forked {index} {pid}")

    def _become_child(self, index: int, peer: int, files: list[int]) -> NoReturn:
        try:
            server = os.getppid()
            os.setpgid(0, 0)
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            prctl(_PR_SET_CHILD_SUBREAPER, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            self._link.close()
            os.close(self._wake_in)
            os.close(self._wake_out)
            if os.getppid() != server:
                os._exit(1)
            cluster_id, workers = self._cluster
            cluster = cluster_id, peer, workers
            birth.main(files[0], files[1], self._claims.of(index), self._log_level, cluster, self._app)
        except BaseException:  # noqa: BLE001 - nothing may climb into the server's loop
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if (index := self._pids.pop(pid, None)) is not None:
                kill_group(pid)  # what it started and left
                self._tell(f"exited {index} {status}")

    def _tell(self, packet: str) -> None:
        with contextlib.suppress(OSError):  # the client is gone: the next poll says so
            self._link.send(packet.encode())

    def _end(self) -> NoReturn:
        """Kill everything that came from here, orphans of orphans too, and go."""
        self._link.close()
        for pid in self._pids:
            kill_group(pid)
        while True:
            for pid in children_of(os.getpid()):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                os._exit(0)


def kill_group(pid: int) -> None:
    """Kill the process group that `pid` leads, or `pid` alone if it does not lead one yet."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except OSError:
            continue
        return


def children_of(pid: int) -> list[int]:
    """The pids of the children of a process; none where the system does not say."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as listing:  # noqa: PTH123 - it starts without pathlib
            return [int(word) for word in listing.read().split()]
    except OSError:
        import psutil

        with contextlib.suppress(psutil.Error):
            return [process.pid for process in psutil.Process(pid).children()]
        return []
