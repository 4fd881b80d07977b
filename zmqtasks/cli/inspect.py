"""`zmqtasks inspect`: workers, queues, and what runs, as a broker knows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from zmqtasks.cli.look import WORKERS
from zmqtasks.cli.options import BROKER, AsJson, Broker, Debug, KeyFile
from zmqtasks.cli.output import Column, age, duration, json_document, record, records

_SHORT_S = 0.001

inspect = typer.Typer(help="What a broker knows of its workers and queues, and of what runs.")

_QUEUES = (
    Column("QUEUE", "queue"),
    Column("TASK", "task", cut=True),
    Column("PYTHON", "python", right=True),
    Column("TASKS", "tasks", "{:,}".format, right=True),
    Column("OLDEST", "oldest_s", age),
    Column("WORKERS", "workers", lambda names: ", ".join(names) or "none takes it", cut=True),
)
_ACTIVE = (
    Column("ID", "id"),
    Column("NAME", "name", cut=True),
    Column("WORKER", "worker", cut=True),
    Column("SINCE", "seconds", age),
    Column("CLIENT", "client", cut=True),
    Column("QUEUE", "queue"),
    Column("TRIES", "attempt", right=True),
    Column("ITEMS", "items", right=True),
)
_REGISTERED = (Column("TASK", "task"), Column("WORKERS", "workers", ", ".join, cut=True))
_STATS = (
    Column("Submitted", "submitted", "{:,}".format),
    Column("Tasks", "tasks", lambda tasks: ", ".join(f"{n:,} {state.lower()}" for state, n in tasks.items() if n)),
    Column("Clients", "clients", lambda number: f"{number - 1} beside this command"),
    Column("Results", "results", lambda results: f"{results['kept']:,} kept"),
)  # fmt: skip
_FUNCTIONS = (
    Column("FUNCTION", "name", cut=True),
    Column("TAKES", "seconds", lambda s: duration(s) if s >= _SHORT_S else f"{s * 1e6:.0f} us", right=True),
)


def _show(
    what: str, columns: Sequence[Column], nothing: str, broker: str, key: Path | None, *, as_json: bool
) -> None:
    from zmqtasks.cli.connection import connected

    with connected(broker, key, "inspect") as connection:
        found: list[dict[str, Any]] = getattr(connection.inspect, what)()
    records(found, columns, as_json=as_json, nothing=nothing)


@inspect.command()
def queues(
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Show how many tasks are queued where, since when, and which workers take them.

    Example: zmqtasks inspect queues

    There is a line for each queue and Python version, and for each task that only workers with -A have.
    """
    _show(
        "queues", _QUEUES, "nothing was queued yet, and no worker is connected", broker, key, as_json=as_json
    )


@inspect.command()
def active(
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Show what is running: where, since when, and who has submitted it.

    Example: zmqtasks inspect active --json

    Tasks that take less than some milliseconds come and go unseen.
    """
    _show("active", _ACTIVE, "nothing is running", broker, key, as_json=as_json)


@inspect.command()
def workers(
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Show the workers that are connected.

    Example: zmqtasks inspect workers
    """
    _show("workers", WORKERS, "no worker is connected", broker, key, as_json=as_json)


@inspect.command()
def registered(
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Show the tasks that workers have by name, from -A.

    Example: zmqtasks inspect registered
    """
    from zmqtasks.cli.connection import connected

    with connected(broker, key, "inspect") as connection:
        found = connection.inspect.registered()
    rows = [{"task": task, "workers": names} for task, names in sorted(found.items())]
    records(rows, _REGISTERED, as_json=as_json, document=found, nothing="no worker was started with -A")


@inspect.command()
def stats(
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Show the counters, and how long a task of each function takes.

    Example: zmqtasks inspect stats --json
    """
    from zmqtasks.cli.connection import connected

    with connected(broker, key, "inspect") as connection:
        found = connection.inspect.stats()
    if as_json:
        json_document(found)
        return
    record(found, _STATS, as_json=False)
    if found["functions"]:
        typer.echo()
        records(found["functions"], _FUNCTIONS, as_json=False)
