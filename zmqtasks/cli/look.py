"""`zmqtasks list`, `status` and `explain`: what a broker says of its tasks and workers."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

import typer

from zmqtasks.cli.exits import CommandError, Exit
from zmqtasks.cli.options import BROKER, AsJson, Broker, Debug, KeyFile, TaskId
from zmqtasks.cli.output import Column, age, json_document, record, records, size
from zmqtasks.messages import FACE, SUCCEEDED, State

_TASKS = (
    Column("ID", "id"),
    Column("NAME", "name", cut=True),
    Column("STATE", "state"),
    Column("QUEUE", "queue"),
    Column("WORKER", "worker", cut=True),
    Column("TRIES", "attempt", right=True),
    Column("ITEMS", "count", right=True),
)
WORKERS = (
    Column("WORKER", "name", cut=True),
    Column("HOST", "host", cut=True),
    Column("PID", "pid", right=True),
    Column("PYTHON", "python", right=True),
    Column("SLOTS", "slots", right=True),
    Column("TASKS", "in_hand", right=True),
    Column("QUEUES", "queues", ",".join, cut=True),
    Column("HEARD", "heard_s_ago", age),
)
_STATUS = (
    Column("Broker", "broker"),
    Column("Clients", "clients", lambda number: f"{number - 1} beside this command"),
    Column("Submitted", "submitted", "{:,}".format),
    Column("Tasks", "tasks"),
    Column("Queues", "queues"),
    Column("Results", "results"),
    Column("Workers", "workers"),
)
_TASK = (
    Column("Task", "id"),
    Column("Name", "name"),
    Column("State", "state"),
    Column("Why", "why"),
    Column("Error", "error"),
    Column("Queue", "queue"),
    Column("Priority", "priority"),
    Column("Python", "python"),
    Column("Tags", "tags", lambda tags: ", ".join(f"{name}={value}" for name, value in tags.items())),
    Column("Worker", "worker"),
    Column("Tries", "attempt"),
    Column("Items", "count"),
    Column("Workflow", "workflow"),
    Column(
        "Nodes",
        "nodes",
        lambda nodes: _counted(
            {
                "in all": nodes["total"],
                "ended": nodes["ended"],
                **{state.lower(): items for state, items in nodes["states"].items()},
            }
        ),
    ),
)
_EVENTS = (
    Column("TIME", "time", lambda time: datetime.fromtimestamp(time).astimezone().isoformat(" ", "milliseconds")),
    Column("STATE", "state"),
    Column("WORKER", "worker", cut=True),
    Column("TRIES", "attempt", right=True),
    Column("REASON", "reason", cut=True),
)  # fmt: skip
_AWAITED = (
    Column("WAITS FOR", "id"),
    Column("NAME", "name", cut=True),
    Column("STATE", "state"),
    Column("QUEUE", "queue"),
    Column("WORKER", "worker", cut=True),
)
_FAILED = (
    Column("FAILED", "id"),
    Column("NAME", "name", cut=True),
    Column("STATE", "state"),
    Column("REASON", "reason"),
)


def _state(text: str) -> str:
    """Read the name of a state."""
    if text.upper() not in State.__members__:
        raise typer.BadParameter(f"there is no state {text!r} (there are: {', '.join(State.__members__)})")
    return text.upper()


def list_tasks(
    state: Annotated[
        str | None,
        typer.Option("--state", parser=_state, metavar="STATE", help="Only those, as QUEUED or FAILED."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="So many at most.")] = 1000,
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """List tasks that have not ended, and those whose results are kept.

    Example: zmqtasks list --state RUNNING

    The tasks of one map may be one line; ITEMS says how many they are. A program's own results are kept until it has
    them, those of zmqtasks submit until their time is over.
    """
    from zmqtasks.cli.connection import connected

    with connected(broker, key, "inspect") as connection:
        found = connection.inspect.list(state, limit + 1)
    nothing = "no tasks" if state is None else f"no tasks are {state}"
    records(found[:limit], _TASKS, as_json=as_json, nothing=nothing)
    if len(found) > limit:
        typer.echo(f"There are more than {limit} (see --limit).", err=True)


def status(
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Show how many tasks a broker has, and who works for it.

    Example: zmqtasks status --json

    The exit code is 69 if no worker is connected.
    """
    from zmqtasks.cli.connection import connected

    with connected(broker, key, "inspect") as connection:
        found = connection.inspect.status()
    workers = found["workers"]
    if as_json:
        json_document(found)
    else:
        record({**found, **_summary(found, broker)}, _STATUS, as_json=False)
        if workers:
            typer.echo()
            records(workers, WORKERS, as_json=False)
    if not workers:
        raise CommandError(f"no worker is connected: zmqtasks worker {broker} starts one", Exit.NO_ANSWER)


def _summary(found: dict[str, Any], broker: str) -> dict[str, str]:
    results, slots = found["results"], sum(worker["slots"] for worker in found["workers"])
    return {
        "broker": f"{broker}, {'its queue is in memory only' if found['journal'] == 'memory' else found['journal']}",
        "tasks": _counted({name.lower(): number for name, number in found["tasks"].items()}),
        "queues": _counted(found["queues"]) or "nothing is queued",
        "results": f"{results['kept']:,} kept, {size(results['bytes'])}",
        "workers": f"{len(found['workers'])}, for {slots} tasks at a time" if slots else "none",
    }


def _counted(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in numbers.items() if number)


def explain(
    task_id: TaskId,
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Say where a task is, why it is not running or has failed, and what has happened to it.

    Example: zmqtasks explain 1f0a77c2-1

    Of a workflow, by the id of its future: how many of its tasks are where, what it waits for, and what in it has
    failed. What happened long ago is forgotten. The exit code is 6 if the broker knows no such task.
    """
    from zmqtasks.cli.connection import connected
    from zmqtasks.cli.outcome import line_of
    from zmqtasks.errors import UnknownTask

    with connected(broker, key, "inspect") as connection:
        found = connection.inspect.explain(task_id)
        if FACE.index(found["state"]) > SUCCEEDED:  # the broker cannot open what was raised
            with suppress(UnknownTask):  # its time is over just now
                error = connection.outcome(task_id, wait=False).error()
                found["error"] = error if as_json else line_of(error)
    shown = [column for column in _TASK if found.get(column.key) not in (None, "", {}, 0)]
    shown = [column for column in shown if column.key != "count" or found["count"] > 1]
    record(found, shown, as_json=as_json)
    if as_json:
        return
    failed = found.get("nodes", {}).get("failed", [])
    for rows, columns in ((found.get("waits_for"), _AWAITED), (failed, _FAILED), (found["events"], _EVENTS)):
        if rows:
            typer.echo()
            records(rows, columns, as_json=False)
