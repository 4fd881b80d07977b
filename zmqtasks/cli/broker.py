"""`zmqtasks broker`: where tasks wait, for workers and clients of this machine or of many."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shlex
import socket
import struct
from typing import TYPE_CHECKING, Annotated

import typer

from zmqtasks.cli.exits import CommandError, Exit
from zmqtasks.cli.options import (
    BROKER,
    Debug,
    Level,
    LogLevel,
    ServerKey,
    ShutdownTimeout,
    bind_address,
    duration,
    size,
    store_of,
)

if TYPE_CHECKING:
    from zmqtasks.keys import KeyStore

_COMMAND_MAX = 60  # letters of another process's command line

_log = logging.getLogger("zmqtasks")


def broker(
    bind: Annotated[
        list[str] | None,
        typer.Option(
            "--bind",
            parser=bind_address,
            metavar="ADDRESS",
            help="Where to listen; more than once for several. Port * is any that is free.",
            show_default=BROKER,
        ),
    ] = None,
    memory: Annotated[  # noqa: ARG001 - there is no other way yet
        bool,
        typer.Option("--memory", help="Keep the queue in memory, and nowhere else: as it is done anyway."),
    ] = False,
    key: ServerKey = None,
    queue_max: Annotated[
        int,
        typer.Option(
            "--queue-max", min=1, metavar="N", help="Tasks that may be unsettled before submits wait."
        ),
    ] = 1_000_000,
    result_ttl: Annotated[
        float,
        typer.Option(
            "--result-ttl",
            parser=duration,
            metavar="DURATION",
            help="How long a result is kept.",
            show_default="1d",
        ),
    ] = 86400.0,
    result_max: Annotated[
        int,
        typer.Option(
            "--result-max",
            parser=size,
            metavar="SIZE",
            help="What all results may take.",
            show_default="256M",
        ),
    ] = 256 << 20,
    shutdown_timeout: ShutdownTimeout = 30.0,
    log_level: LogLevel = Level.INFO,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Run a broker: workers and clients meet here, and tasks wait here.

    On one machine: zmqtasks broker, and elsewhere on it zmqtasks worker.

    For several: zmqtasks keys init, then zmqtasks broker --bind tcp://0.0.0.0:5555.

    The keys are those beside --key, else in ZMQTASKS_KEYS, by default ~/.config/zmqtasks/keys. The first TERM or Ctrl-C
    waits for the tasks that are there, the second does not; USR1 prints stacks.
    """
    from zmqtasks.cli.service import Signals, log_to_stderr
    from zmqtasks.nodes.broker import Broker

    log_to_stderr(log_level)
    store = store_of(key)
    for address in bind or ():
        if owner := _owner(address):
            raise CommandError(f"{address} is in use by {_named(owner)}", Exit.NO_CONNECTION)
    try:
        served = Broker(
            bind or [BROKER], store, queue_max=queue_max, result_bytes_max=result_max, result_ttl_s=result_ttl
        )
    except OSError as error:
        raise unbindable(error) from error
    promise = f"the broker ends when no task is left, in {shutdown_timeout:g} s at the latest"
    signals = Signals(served.stop, promise, shutdown_timeout)
    _introduce(served.addresses, store)
    served.run()
    signals.end()
    raise typer.Exit(signals.code)


def _introduce(addresses: list[str], store: KeyStore) -> None:
    """Say where it listens, and what to type next."""
    _log.info(
        "broker %d listens at %s; its queue is in memory only, and is lost with it",
        os.getpid(),
        ", ".join(addresses),
    )
    from zmqtasks.keys import is_on_this_machine

    for address in addresses:
        reach = reachable(address)
        here = is_on_this_machine(address)
        worker, client = (_key(store, role, here=here, address=address) for role in ("worker", "client"))
        there = "" if here else ", on another machine with the key file copied there"
        _log.info(
            "worker%s: zmqtasks worker %s%s", there, reach, f" --key {shlex.quote(worker)}" if worker else ""
        )
        _log.info('client%s: Client("%s"%s)', there, reach, f', key="{client}"' if client else "")


def _key(store: KeyStore, role: str, *, here: bool, address: str) -> str:
    """The key file that somebody of this role has to name; "" where none has to be."""
    from zmqtasks.keys import KeyStore

    found = "ZMQTASKS_KEYS" not in os.environ and store.folder == KeyStore().folder
    if address.startswith("ipc:") or (here and found):
        return ""
    path = store.path(role)
    return str(path) if here else path.name


def reachable(address: str) -> str:
    """The address with a host that others can type."""
    transport, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    if transport != "tcp" or host not in ("0.0.0.0", "*", "[::]"):  # noqa: S104 - any host, as it is written
        return address
    return f"tcp://{_own_host()}:{port}"


def _own_host() -> str:
    """An address of this machine that is not its loopback, or its name."""
    import psutil

    for name, found in sorted(psutil.net_if_addrs().items()):
        statistics = psutil.net_if_stats().get(name)
        for one in found:
            if (
                one.family == socket.AF_INET
                and not one.address.startswith("127.")
                and statistics
                and statistics.isup
            ):
                return str(one.address)
    return socket.gethostname()


def unbindable(error: OSError) -> CommandError:
    """Why it cannot listen, and where another process does, which."""
    address = str(error.filename)
    if error.errno == errno.EADDRINUSE:
        return CommandError(f"{address} is in use by {_who_listens(address)}", Exit.NO_CONNECTION)
    return CommandError(f"cannot listen at {address}: {error.strerror}", Exit.NO_CONNECTION)


def _who_listens(address: str) -> str:
    """The process that has the port of a TCP address, as far as this user may see it."""
    import psutil

    port = int(address.rpartition(":")[2]) if address.startswith("tcp:") else -1
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr or not connection.pid:
                continue
            if connection.laddr.port == port:
                return _named(connection.pid)
    return "another process"


def _named(pid: int) -> str:
    """A process by its number and what it was started with."""
    import psutil

    process = psutil.Process(pid)
    words = process.cmdline()
    words[:2] = [os.path.basename(word) for word in words[:2]]  # noqa: PTH119 - no path is made of it
    command = " ".join(words) or process.name()
    shown = command if len(command) <= _COMMAND_MAX else f"{command[: _COMMAND_MAX - 3]}..."
    return f"process {pid}: {shown}"


def _owner(address: str) -> int:
    """The process that listens at an ipc address, 0 for none: to bind there would take it away unnoticed."""
    if not address.startswith("ipc://") or not hasattr(socket, "SO_PEERCRED"):
        return 0
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(address.removeprefix("ipc://"))
        except OSError:
            return 0
        return int(struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
