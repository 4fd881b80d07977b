"""`zmqtasks worker`: runs the tasks of a broker on this machine."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zmqtasks.cli.exits import CommandError, Exit
from zmqtasks.cli.options import BROKER, Debug, KeyFile, Level, LogLevel, ShutdownTimeout, address, names

if TYPE_CHECKING:
    from zmqtasks.nodes.worker import Worker

PATIENCE_S = 3.0  # after which a broker that is not there is spoken of


def _children(text: str | int) -> int:
    """Read how many tasks are to run at a time."""
    from zmqtasks.nodes.cpus import cpus

    if text == "auto":
        return cpus()
    if not str(text).isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is neither a number from 1 on nor auto")
    return int(text)


def worker(
    context: typer.Context,
    broker: Annotated[
        str,
        typer.Argument(
            parser=address, metavar="ADDRESS", envvar="ZMQTASKS_BROKER", help="Where the broker is."
        ),
    ] = BROKER,
    ventilator: Annotated[
        str | None,
        typer.Option(
            "--ventilator",
            parser=address,
            metavar="ADDRESS",
            help="Run the inputs of a pipeline instead, until it ends: where its ventilator is.",
            show_default=False,
        ),
    ] = None,
    key: KeyFile = None,
    app: Annotated[
        str | None,
        typer.Option(
            "-A",
            "--app",
            metavar="MODULE:APP",
            help="Import this app, and run its tasks for those who know their names; file.py:app, too.",
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--concurrency",
            parser=_children,
            metavar="N|auto",
            help="Tasks at a time; auto is the CPUs that this process may use, in a container too.",
            show_default="auto",
        ),
    ] = None,
    queues: Annotated[
        list[str] | None,
        typer.Option(
            "-Q",
            "--queues",
            metavar="NAME,...",
            help="Take only these queues; gpu* is all that begin so.",
            show_default="all",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "-X", "--exclude", metavar="NAME,...", help="Do not take these queues.", show_default="none"
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option("--name", metavar="NAME", help="What it is called in lists.", show_default="HOST:PID"),
    ] = "",
    burst: Annotated[
        bool,
        typer.Option("--burst", help="Leave when there is nothing left to do; exit code 4 without a broker."),
    ] = False,
    shutdown_timeout: ShutdownTimeout = 30.0,
    log_level: LogLevel = Level.INFO,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Run tasks of a broker: one worker a machine, with a child process for each task at a time.

    On the broker's machine: zmqtasks worker

    On another, with the key file copied there: zmqtasks worker tcp://HOST:5555 --key worker.key

    With the tasks of an app: zmqtasks worker -A shop:app

    Tasks find the modules of the directory that it is started in. What tasks print is here. The first TERM or Ctrl-C
    finishes what runs and gives back the rest, the second gives back all, as QUIT does; USR1 prints stacks.
    """
    from zmqtasks.cli.service import Signals, log_to_stderr
    from zmqtasks.keys import load
    from zmqtasks.nodes.cpus import cpus
    from zmqtasks.nodes.household import Plan
    from zmqtasks.nodes.worker import Worker
    from zmqtasks.nodes.zap import keypair

    log_to_stderr(log_level)
    here = str(Path.cwd())
    sys.path[:] = [here, *(entry for entry in sys.path if entry not in ("", here))]
    found = None
    if app is not None:
        from zmqtasks.cli.apps import find

        if ventilator is not None:
            raise typer.BadParameter("is for a broker's worker, not for a pipeline's", param_hint="-A")
        found = find(app)
        sys.path[:] = found.path
        source = context.get_parameter_source("broker")
        if found.broker and source is not None and source.name == "DEFAULT":
            broker = address(found.broker)
    broker = ventilator or broker
    own = None
    if not broker.startswith("ipc:"):
        own = load(str(key) if key else None, "worker", keypair, address=broker)
    plan = Plan(concurrency or cpus(), cpus(), name, names(queues), names(exclude), burst, shutdown_timeout)
    if found is not None:
        plan = plan._replace(app=found.place, tasks=found.tasks)
    working = Worker(broker, own, plan)
    promise = (
        f"the worker finishes what runs, in {shutdown_timeout:g} s at the latest, and gives back the rest"
    )
    signals = Signals(working.stop, promise, 0, lambda: working.stop(cold=True))
    absent = _watch_for(working, broker, key, burst=burst)
    reason = working.run()
    signals.end()
    if absent:
        raise CommandError(absent[0], Exit.NO_CONNECTION)
    if reason:
        raise CommandError(f"{broker}: {reason}", Exit.NO_CONNECTION)
    raise typer.Exit(signals.code)


def _watch_for(worker: Worker, broker: str, key: Path | None, *, burst: bool) -> list[str]:
    """Say once that no broker answers; where that is not to be waited for, now or later, stop: the list has why."""
    from zmqtasks.cli.connection import answers, not_to_this_key
    from zmqtasks.cli.service import say

    absent: list[str] = []

    def look(*_: object) -> None:
        if worker.is_in or (worker.has_joined and not burst):
            return
        strange = not_to_this_key(broker, key, "worker") if answers(broker) else ""
        if burst:
            absent.append(strange or f"no broker answers at {broker} within {PATIENCE_S:g} s")
            worker.stop(cold=True)
        else:
            say(f"{strange}: trying on" if strange else f"no broker answers at {broker} yet: waiting for it")

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S, PATIENCE_S if burst else 0.0)
    return absent
