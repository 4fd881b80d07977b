"""`zmqtasks submit`, `result` and `cancel`: single tasks of a broker, from a shell."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zmqtasks.cli.exits import CommandError, Exit
from zmqtasks.cli.options import (
    BROKER,
    AsJson,
    Broker,
    Debug,
    KeyFile,
    TaskId,
    duration,
    json_object,
    json_or_text,
    pairs,
)

_Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", parser=duration, metavar="DURATION", help="Wait no longer: then the exit code is 5."
    ),
]


def submit(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="module:function or file.py:function.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGS",
            help="JSON each, or else text; after -- they may begin with -.",
            show_default=False,
        ),
    ] = None,
    kwargs: Annotated[
        dict[str, Any] | None,
        typer.Option(
            "--kwargs", parser=json_object, metavar="JSON", help="Keyword arguments, as a JSON object."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result, and print it.")] = False,
    timeout: _Timeout = None,
    queue: Annotated[
        str | None,
        typer.Option("--queue", help="Only workers that take it run the task.", show_default="default"),
    ] = None,
    priority: Annotated[int, typer.Option("--priority", min=0, max=9, metavar="0-9", help="9 first.")] = 0,
    countdown: Annotated[
        float,
        typer.Option(
            "--countdown", parser=duration, metavar="DURATION", help="Not before so long.", show_default="0s"
        ),
    ] = 0.0,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What it is called in lists and errors.", show_default="the function's"),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="NAME=VALUE", help="Shown by `zmqtasks explain`; more than once."),
    ] = None,
    max_deliveries: Annotated[
        int,
        typer.Option(
            "--max-deliveries", min=1, metavar="N", help="Give it up when its worker has died so often."
        ),
    ] = 3,
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Submit a task and print its id, or with --wait its result.

    Example: zmqtasks submit math:factorial 20 --wait

    Example: zmqtasks submit shop.mail:send a@b.c --kwargs '{"body": "hi"}' --queue mail

    A function is imported here and by the worker: its module has to be there too. The exit code is 1 if the task
    fails, 3 if there is no such function.
    """
    from zmqtasks.cli.connection import connected
    from zmqtasks.cli.output import json_document
    from zmqtasks.cli.target import resolve

    if timeout is not None and not wait:
        raise typer.BadParameter("is for --wait", param_hint="--timeout")
    options: dict[str, Any] = {
        "priority": priority,
        "countdown": countdown,
        "name": name,
        "tags": pairs(tags),
        "max_deliveries": max_deliveries,
    }
    if queue is not None:
        options["queue"] = queue
    function = resolve(target)
    values, named = json_or_text(arguments or ()), kwargs or {}
    _check(target, function, values, named)
    with connected(broker, key, "submit") as connection:
        future = connection.submitter.options(**options).submit(function, *values, **named)
        connection.submitter.flush()
        if not wait:
            if as_json:
                json_document({"id": future.id})
            else:
                print(future.id)
            return
        try:
            outcome = connection.outcome(future.id, wait=True, timeout_s=timeout)
        except (KeyboardInterrupt, CommandError):
            sys.stderr.write(f"zmqtasks: the task goes on: zmqtasks result {future.id} --wait\n")
            raise
    outcome.show(as_json=as_json)


def _check(target: str, function: Any, values: list[Any], named: dict[str, Any]) -> None:
    """Arguments that the function does not take are a usage error, and no task that fails later."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # one in C that does not say
        return
    try:
        signature.bind(*values, **named)
    except TypeError as error:
        raise CommandError(f"{target}{signature}: {error}", Exit.USAGE) from None


def result(
    task_id: TaskId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the task has ended.")] = False,
    timeout: _Timeout = None,
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Print what a task returned.

    Example: zmqtasks result 1f0a77c2-1 --wait --timeout 1m

    As JSON if JSON has it, else as Python shows it. The exit code is 1 if the task has failed, 5 if it has not ended,
    6 if the broker knows no such task or keeps its result no longer.
    """
    from zmqtasks.cli.connection import connected

    with connected(broker, key, "result") as connection:
        outcome = connection.outcome(task_id, wait=wait or timeout is not None, timeout_s=timeout)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # a result may be of a class of the caller's
    outcome.show(as_json=as_json)


def cancel(
    task_id: TaskId,
    terminate: Annotated[bool, typer.Option("--terminate", help="End it even if it runs.")] = False,
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Cancel a task that has not started, or with --terminate one that runs.

    Example: zmqtasks cancel 1f0a77c2-1 --terminate

    The exit code is 1 if it cannot be cancelled any more, 6 if the broker knows no such task.
    """
    from zmqtasks.cli.connection import connected
    from zmqtasks.cli.output import json_document

    with connected(broker, key, "cancel") as connection:
        cancelled = connection.host.cancel(connection.number(task_id), terminate=terminate)
        state = connection.inspect.explain(task_id)["state"]
    if as_json:
        json_document({"id": task_id, "cancelled": cancelled, "state": state})
    if not cancelled:
        running = state == "RUNNING" and not terminate
        why = "it runs: --terminate ends it" if running else f"it is {state}"
        raise CommandError(f"task {task_id} is not cancelled: {why}")
    if not as_json:
        print(f"Cancelled {task_id}.")
