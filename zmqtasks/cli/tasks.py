"""`zmqtasks submit`, `result` and `cancel`: single tasks of a broker, from a shell."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from zmqtasks.cli.output import json_document
from zmqtasks.messages import FACE, FINAL_FROM, State
from zmqtasks.suggest import close_to

if TYPE_CHECKING:
    from zmqtasks.cli.connection import Connection

_Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", parser=duration, metavar="DURATION", help="Wait no longer: then the exit code is 5."
    ),
]


def submit(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="module:function, file.py:function, or the name of a task of a worker's app.",
        ),
    ],
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
    retry: Annotated[
        int, typer.Option("--retry", min=0, metavar="N", help="Run it again so often if it fails.")
    ] = 0,
    time_limit: Annotated[
        float | None,
        typer.Option("--time-limit", parser=duration, metavar="DURATION", help="End it when it runs longer."),
    ] = None,
    expires: Annotated[
        float | None,
        typer.Option(
            "--expires", parser=duration, metavar="DURATION", help="Do not start it later than that from now."
        ),
    ] = None,
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Submit a task and print its id, or with --wait its result.

    Example: zmqtasks submit math:factorial 20 --wait

    Example: zmqtasks submit shop.mail:send a@b.c --kwargs '{"body": "hi"}' --queue mail

    Example: zmqtasks submit shop.send a@b.c

    The function is imported here, and travels with its arguments; what it imports has to be where the worker is. A task
    of an app is known by its name to workers that were started with -A. The exit code is 1 if the task fails, 3 if
    there is no such function.
    """
    from zmqtasks.cli.connection import connected
    from zmqtasks.cli.target import resolve
    from zmqtasks.options import DEFAULT_OPTIONS, Retry

    if timeout is not None and not wait:
        raise typer.BadParameter("is for --wait", param_hint="--timeout")
    options: dict[str, Any] = {
        "priority": priority,
        "countdown": countdown,
        "name": name,
        "tags": pairs(tags),
        "max_deliveries": max_deliveries,
        "time_limit": time_limit,
        "expires": expires,
    }
    options = {option: value for option, value in options.items() if value is not None}
    if queue is not None:
        options["queue"] = queue
    try:
        DEFAULT_OPTIONS.replace(**options)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if retry:
        options["retry"] = Retry(retry)
    values, named = json_or_text(arguments or ()), kwargs or {}
    task: Any = target
    if by_value := ":" in target or "." not in target or target.endswith(".py"):
        task = resolve(target)
        _check(target, task, values, named)
    with connected(broker, key, "submit") as connection:
        if not by_value:
            _require_registered(target, connection.host.inquire("registered"))
        future = connection.submitter.options(**options).enqueue(task, tuple(values), named)
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


def _require_registered(name: str, known: Iterable[str]) -> None:
    """A name that no worker has is refused: it may be a slip."""
    if name not in known:
        hint = close_to(name, known) or ": a function is module:function"
        raise CommandError(f"no worker has a task {name!r}{hint}", Exit.TARGET)


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
    task_id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="As `zmqtasks submit` printed it.", show_default=False),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option(
            "--tag", metavar="NAME=VALUE", help="All tasks with this tag; of several, with all of them."
        ),
    ] = None,
    terminate: Annotated[bool, typer.Option("--terminate", help="End it even if it runs.")] = False,
    broker: Broker = BROKER,
    key: KeyFile = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Cancel a task that has not started, or all with a tag; with --terminate those that run, too.

    Example: zmqtasks cancel 1f0a77c2-1 --terminate

    Example: zmqtasks cancel --tag customer=7

    The exit code is 1 if one cannot be cancelled any more, 6 if the broker knows no such task.
    """
    from zmqtasks.cli.connection import connected

    wanted = pairs(tags)
    if (task_id is None) == (not wanted):
        raise typer.BadParameter("what to cancel is an ID or a --tag", param_hint="ID")
    with connected(broker, key, "cancel") as connection:
        if task_id is None:
            _cancel_tagged(connection, wanted, terminate=terminate, as_json=as_json)
        else:
            _cancel_one(connection, task_id, terminate=terminate, as_json=as_json)


def _cancel_one(connection: Connection, task_id: str, *, terminate: bool, as_json: bool) -> None:
    cancelled = connection.host.cancel(connection.number(task_id), terminate=terminate)
    state = connection.inspect.explain(task_id)["state"]
    cancelled = cancelled or state == "CANCELLED"
    if as_json:
        json_document({"id": task_id, "cancelled": cancelled, "state": state})
    if not cancelled:
        running = state == "RUNNING" and not terminate
        why = "it runs: --terminate ends it" if running else f"it is {state}"
        raise CommandError(f"task {task_id} is not cancelled: {why}")
    if not as_json:
        print(f"Cancelled {task_id}.")


def _cancel_tagged(connection: Connection, tags: dict[str, str], *, terminate: bool, as_json: bool) -> None:
    """Each is asked for, but for neighbours of a map: those go together, and what is left of them is asked for then."""
    host, name = connection.host, ",".join(f"{name}={value}" for name, value in tags.items())

    def pending(within: set[int] | None = None) -> list[range]:
        tasks = connection.inspect.list(limit=sys.maxsize, tags=tags)
        firsts = [
            (connection.number(task["id"]), task["count"]) for task in tasks if not _is_final(task["state"])
        ]
        return [range(first, first + count) for first, count in firsts if within is None or first in within]

    there = pending()
    spans = [ids for ids in there if len(ids) > 1]
    for ids in spans:
        host.cancel_all(ids[0], len(ids))
    answers = host.cancel_each([ids[0] for ids in there if len(ids) == 1], terminate=terminate)
    left = len(answers) - sum(answers.values())
    if spans:
        within = {id_ for ids in spans for id_ in ids}
        host.cancel_each([id_ for ids in pending(within) for id_ in ids], terminate=terminate)
        left += sum(map(len, pending(within)))
    cancelled = sum(map(len, there)) - left
    if as_json:
        json_document({"tags": tags, "cancelled": cancelled, "left": left})
    elif cancelled:
        print(f"Cancelled {cancelled} task{'s' if cancelled > 1 else ''} with {name}.")
    if not there:
        raise CommandError(f"no task with the tag {name} waits or runs", Exit.NOT_FOUND)
    if left:
        why = "they have ended" if terminate else "they run: --terminate ends them"
        raise CommandError(f"{left} of {left + cancelled} tasks with {name} are not cancelled: {why}")


def _is_final(state: str) -> bool:
    return FACE.index(State(state)) >= FINAL_FROM
