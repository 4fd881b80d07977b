"""A command's way to the broker: it connects, asks, and leaves; whoever does not answer is one line."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from zmqtasks.cli.exits import CommandError, Exit
from zmqtasks.errors import ConnectionTimeout, UnknownTask, UnusableKey

if TYPE_CHECKING:
    from zmqtasks.cli.outcome import Outcome
    from zmqtasks.introspection import Inspect
    from zmqtasks.nodes.remote import RemoteCluster
    from zmqtasks.submitter import Submitter

__all__ = ["Connection", "answers", "connected", "not_to_this_key"]

CONNECT_S = 5.0
PROBE_S = 1.0
ASK_AGAIN_S = 5.0  # a question that is lost with a connection is asked again


class Connection(NamedTuple):
    """A broker that answers; tasks go by their ids as text."""

    host: RemoteCluster
    submitter: Submitter
    inspect: Inspect

    def number(self, task_id: str) -> int:
        """The number of a task; `UnknownTask` for an id that this broker never gave."""
        from zmqtasks.submitter import number_of

        number = number_of(task_id, self.host.cluster_id)
        if number is None:
            raise UnknownTask(f"{task_id} is no task of the broker at {self.host.address}")
        return number

    def outcome(self, task_id: str, *, wait: bool, timeout_s: float | None = None) -> Outcome:
        """How a task ended; exit code 5 where that is not known (within `timeout_s`), 6 for an unknown task."""
        from zmqtasks.cli.outcome import Outcome
        from zmqtasks.messages import FINAL_FROM

        number = self.number(task_id)
        end = None if timeout_s is None else monotonic() + timeout_s
        found = None
        while found is None:
            left = ASK_AGAIN_S if end is None else min(ASK_AGAIN_S, end - monotonic())
            try:
                found = self.host.fetch(number, timeout=max(left, 0.001) if wait else 0)
            except UnknownTask:
                raise UnknownTask(f"no task {task_id}, or its outcome is no longer kept") from None
            except ConnectionTimeout:
                if not wait:
                    raise
                if end is not None and monotonic() >= end:
                    raise CommandError(
                        f"task {task_id} has not ended within {timeout_s:g} s", Exit.TIMEOUT
                    ) from None
        state, attempts, payload, index = found
        if state < FINAL_FROM:
            where = self.inspect.explain(task_id)["state"]
            raise CommandError(f"task {task_id} has not ended, it is {where} (--wait)", Exit.TIMEOUT)
        return Outcome(task_id, self.host.cluster_id, state, attempts, payload, index)


def answers(address: str) -> bool:
    """Whether anything listens at a TCP address."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_S).close()
    except (OSError, ValueError):
        return False
    return True


def not_to_this_key(address: str, key_file: Path | None, role: str) -> str:
    """What to say where something listens, but shakes no hands: a broker is silent to who takes it for another."""
    from zmqtasks.keys import KeyStore

    file = key_file or os.environ.get("ZMQTASKS_KEY") or KeyStore().path(role)
    return f"{address} answers, but not to the key in {file}: it is another broker's, or that is no broker"


@contextmanager
def connected(address: str, key_file: Path | None, verb: str) -> Iterator[Connection]:
    """Reach the broker at `address`, to do what `verb` says, with a key that may; and leave it.

    Outcomes are left there for others to ask for. Exit code 4 if nobody answers, or the key is refused.
    """
    from zmqtasks.calls import Calls
    from zmqtasks.introspection import Inspect
    from zmqtasks.keys import load, may
    from zmqtasks.nodes.remote import RemoteCluster
    from zmqtasks.nodes.zap import keypair
    from zmqtasks.submitter import Submitter

    key = None
    if not address.startswith("ipc:"):
        key = load(str(key_file) if key_file else None, "client", keypair, address=address)
        if not may(key.role, verb):
            raise UnusableKey(f"the key {key.name} is for the role {key.role}, which may not {verb}")
    try:
        host = RemoteCluster(address, key, name="", patient=True, connect_s=CONNECT_S, confirms=False)
    except ConnectionTimeout as error:
        if answers(address):
            raise ConnectionTimeout(not_to_this_key(address, key_file, "client")) from None
        raise ConnectionTimeout(f"{error}: zmqtasks broker starts one") from None
    try:
        yield Connection(host, Submitter(host, Calls(host)), Inspect(host))
    finally:
        host.depart()
