"""Two machines in one: network namespaces joined by a cable (a veth pair), so that a test sees a real network.

    with two_machines() as (one, two):
        server = subprocess.Popen(one.command(sys.executable, "server.py", one.address))
        two.run(sys.executable, "client.py", one.address)
        two.unplug()  # silence: unlike a closed socket, nobody is told

Each has its own loopback, `one` is 10.77.0.1 and `two` 10.77.0.2, and neither reaches anything else; files and
processes are those of this machine. It needs Linux with `unshare`, `nsenter` and `ip`, and to be root or to be
allowed user namespaces; `Unavailable` says what is missing.

A namespace lives as long as a process in it: here one that ends when this process does, however it ends. So
nothing has a name, and there is nothing to clean up after a killed test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

PROGRAMS = ("unshare", "nsenter", "ip")
SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
"""Where the programs are looked for: those of an administrator are not on everybody's path."""

LINK = "veth0"
BITS = 24
SET_UP_S_MAX = 10.0


class Unavailable(Exception):
    """Raised when this machine has no such namespaces for us; says why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One of the two: its address, and how to run something on it."""

    address: str
    enter: tuple[str, ...]
    """What a command line begins with that is to run on this machine."""

    def command(self, *command: str) -> list[str]:
        """Return the command line that runs `command` on this machine, in a process of the same id."""
        return [*self.enter, *command]

    def run(self, *command: str, timeout_s: float = 30) -> str:
        """Run a command to its end and return its output; `subprocess` raises where it fails or takes longer."""
        return _output(self.command(*command), timeout_s)

    def unplug(self) -> None:
        """Pull the cable: what is sent is lost, at either end, and no connection is told."""
        self._link("down")

    def plug_in(self) -> None:
        """Put the cable back."""
        self._link("up")

    def _link(self, state: str) -> None:
        self.run(_program("ip"), "link", "set", LINK, state)


def _program(name: str) -> str:
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        raise Unavailable(f"network namespaces: no program {name}")
    return found


def _output(command: list[str], timeout_s: float = SET_UP_S_MAX) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=timeout_s
    ).stdout


@contextmanager
def _holder(command: list[str]) -> Iterator[int]:
    """Run the command, which makes a namespace, with a process that stays in it; its process id."""
    with subprocess.Popen(
        [*command, "sh", "-c", "echo there; exec cat"],
        stdin=subprocess.PIPE,  # closed by our own end, whatever it is, and then cat ends
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            if not process.stdout.readline():
                raise Unavailable(f"network namespaces: {process.stderr.read().strip()}")
            yield process.pid
        finally:
            process.kill()


def _machines(stack: ExitStack, *, user: bool) -> tuple[Machine, Machine]:
    """Make two namespaces, within a user namespace of their own if `user`, and join them."""
    unshare, nsenter, ip = map(_program, PROGRAMS)
    # In a user namespace we are root by name, and keep our own identity: no other could be entered with.
    as_user = ("--user", "--preserve-credentials") * user

    def entered(pid: int, *kinds: str) -> tuple[str, ...]:
        return (nsenter, "--target", str(pid), *as_user, *kinds, "--")

    first = stack.enter_context(_holder([unshare, *(("--user", "--map-root-user") * user), "--net"]))
    in_same_user = entered(first) if user else ()
    second = stack.enter_context(_holder([*in_same_user, unshare, "--net"]))
    pair = (
        Machine("10.77.0.1", entered(first, "--net")),
        Machine("10.77.0.2", entered(second, "--net")),
    )
    ends = ("type", "veth", "peer", "name", LINK, "netns", str(second))
    pair[0].run(ip, "link", "add", "name", LINK, *ends)
    for machine in pair:
        machine.run(ip, "address", "add", f"{machine.address}/{BITS}", "dev", LINK)
        machine.run(ip, "link", "set", "lo", "up")
        machine.plug_in()
    return pair


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Yield two machines joined by a cable; raises `Unavailable` where that cannot be.

    Processes that a test has left running on them live on, and with them the namespaces.
    """
    with ExitStack() as stack:
        yield _first_that_works(stack)


def _first_that_works(stack: ExitStack) -> tuple[Machine, Machine]:
    """As root without a user namespace, if that works; what did not work is taken down at once."""
    reasons = []
    for user in (False, True) if os.geteuid() == 0 else (True,):
        with ExitStack() as attempt:
            try:
                pair = _machines(attempt, user=user)
            except Unavailable as reason:
                reasons.append(str(reason))
            except subprocess.CalledProcessError as error:
                reasons.append(f"network namespaces: {error.stderr.strip()}")
            else:
                stack.enter_context(attempt.pop_all())
                return pair
    raise Unavailable("; ".join(dict.fromkeys(reasons)))
