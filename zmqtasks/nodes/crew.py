"""The children of this process: started, known by their links, heard of when they die."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys

from zmqtasks.nodes.claim import CHILDREN_MAX, ORDINAL, SINCE, Claims, make
from zmqtasks.nodes.link import Closed, Link, pair
from zmqtasks.nodes.relay import relays

# The interpreter's own start is most of a cold start: nothing is imported here before the path is the caller's.
_BOOT = """\
import sys
n = int(sys.argv[1])
sys.path[:] = sys.argv[2 : 2 + n]
from zmqtasks.nodes.forkserver import main
main(sys.argv[2 + n :])
"""
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_END_S = 5.0  # what the fork server may take to kill everything; it takes milliseconds
_PACKET_BYTES = 4096
SESSIONS_MAX = 4096  # children that submit tasks have a session each; a later one has that of one long gone
_STANDARD_MAX = 2  # the descriptor of standard error


class ChildLink:
    """A child as its host sees it: `peer` names it in the dispatcher, `index` in the claims and the fork server."""

    def __init__(self, peer: int, index: int, claim: memoryview) -> None:
        self.peer = peer
        self.index = index
        self.claim = claim
        self.pid = 0
        self.is_ready = False
        self.functions: set[int] = set()  # numbers of those it has
        mine_data, self.their_data = pair()
        mine_control, self.their_control = pair()
        mine_data.setblocking(False)
        mine_control.setblocking(False)
        self.data = Link(mine_data)
        self.control = Link(mine_control)

    def close(self) -> None:
        """Close this side of it."""
        self.data.close()
        self.control.close()
        self.claim.release()


class Crew:
    """The fork server and its children. `later`: a module that tasks may need, not imported before the first run.

    `first_session`: what the children submit has ids of the sessions from there on. `app`: module:attribute of an app,
    which they import.
    """

    def __init__(
        self, workers: int, cpus: int, cluster_id: str, later: str, first_session: int = 0, app: str = ""
    ) -> None:
        self._first_session = first_session
        self.children: dict[int, ChildLink] = {}  # by index
        self._next_peer = 1
        self._old: list[Claims] = []  # of fork servers that are gone
        self._about = (workers, cpus, cluster_id, later, app)
        self.relays = relays()
        self._link, self._server, self._claims = self._launch()

    def _launch(self) -> tuple[socket.socket, subprocess.Popen[bytes], Claims]:
        """Start a fork server; the children it will have write to a page of their own."""
        workers, cpus, cluster_id, later, app = self._about
        threads = str(max(1, cpus // workers))
        path = [entry for entry in sys.path if isinstance(entry, str)]  # type: ignore[redundant-expr]  # anybody writes to it
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does
        out, err = (None if relay is None else relay.theirs for relay in self.relays)
        claims = make()
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log_level = logging.getLogger().getEffectiveLevel()
        about = [str(word) for word in (theirs.fileno(), claims, log_level, cluster_id, workers, later, app)]
        try:
            server = subprocess.Popen(
                [sys.executable, *flags, "-c", _BOOT, str(len(path)), *path, *about, *sys.argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=(theirs.fileno(), claims),
                env={**dict.fromkeys(_THREADS, threads), **os.environ},
                start_new_session=True,  # Ctrl-C at the terminal is the client's alone
            )
            return mine, server, Claims(claims)
        except BaseException:
            mine.close()
            raise
        finally:
            theirs.close()
            os.close(claims)

    def restart(self) -> list[tuple[ChildLink, int | None]]:
        """The fork server is gone, killed by somebody: end what it left, and start another."""
        ended: list[tuple[ChildLink, int | None]] = [(child, None) for child in self.children.values()]
        for child, _ in ended:
            if child.pid:
                with contextlib.suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)
        self.children.clear()
        self._link.close()
        self._server.wait()
        self._old.append(self._claims)
        self._link, self._server, self._claims = self._launch()
        return ended

    def fileno(self) -> int:
        """Readable when `events` has something."""
        return self._link.fileno()

    def fork(self) -> ChildLink:
        """Ask for one more child."""
        index = next(index for index in range(CHILDREN_MAX) if index not in self.children)
        claim = self._claims.of(index)
        claim[ORDINAL], claim[SINCE] = -1, 0
        child = ChildLink(self._next_peer, index, claim)
        self._next_peer += 1
        self.children[index] = child
        session = self._first_session + child.peer % SESSIONS_MAX
        files = [child.their_data.fileno(), child.their_control.fileno()]
        with contextlib.suppress(OSError):  # the server is gone: `events` will say so
            socket.send_fds(self._link, [b"fork %d %d" % (index, session)], files)
        child.their_data.close()
        child.their_control.close()
        return child

    def kill(self, child: ChildLink) -> None:
        """Kill a child and what it started; its exit is an event."""
        with contextlib.suppress(OSError):
            self._link.send(b"kill %d" % child.index)

    def end(self, child: ChildLink, ordinal: int, item: int) -> None:
        """Kill a child if it runs that item of that task when it has been stopped; else it goes on."""
        with contextlib.suppress(OSError):
            self._link.send(b"end %d %d %d" % (child.index, ordinal, item))

    def events(self) -> list[tuple[ChildLink, int | None]]:
        """The children that ended, with their wait status (None: unknown or never started); `Closed` without server."""
        ended: list[tuple[ChildLink, int | None]] = []
        while True:
            try:
                packet = self._link.recv(_PACKET_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return ended
            except OSError:
                packet = b""
            if not packet:
                if ended:
                    return ended
                raise Closed
            what, index, number = packet.decode().split()
            if what == "forked":
                self.children[int(index)].pid = int(number)
            else:
                status = int(number) if what == "exited" else None
                ended.append((self.children.pop(int(index)), status))

    def leave(self) -> None:
        """Close what this process, a forked one, inherited."""
        self._link.close()
        self._server.returncode = 0  # not this process's child

    def close(self) -> None:
        """Kill what is left, and wait until all of it is gone."""
        self._link.close()
        try:
            self._server.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        for child in self.children.values():
            child.close()
        self.children.clear()
        for claims in (*self._old, self._claims):
            claims.close()
        for relay in self.relays:
            if relay is not None:
                relay.close()


def occupy_standard_descriptors() -> None:
    """Where the caller has closed 0, 1 or 2, nothing of ours may take its number: children would write there.

    Called before anything of ours is opened.
    """
    while (file := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_MAX:
        os.set_inheritable(file, True)
    os.close(file)


def describe(status: int | None) -> str:
    """What `os.waitpid` said of a process, in words."""
    if status is None:
        return "it could not be started, or its fork server is gone"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"it exited with status {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    try:
        return f"it was ended by {signal.Signals(-code).name}{hint}"
    except ValueError:
        return f"it was ended by signal {-code}"
