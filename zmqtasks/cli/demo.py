"""`zmqtasks demo`: its options. What it does is in `demonstration`, with all that it loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zmqtasks.cli.options import AsJson, Debug


def demo(
    workers: Annotated[
        int | None,
        typer.Option(min=1, envvar="ZMQTASKS_WORKERS", help="Child processes; by default one for each CPU."),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            envvar="ZMQTASKS_DEMO_PATH",
            help="Another directory of Python files than the standard library.",
        ),
    ] = None,
    broker: Annotated[
        bool, typer.Option("--broker", help="On a broker and two workers, processes of its own.")
    ] = False,
    pipeline: Annotated[
        bool, typer.Option("--pipeline", help="As a stream: ventilator, workers, sink, and no broker.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Parse all of Python's standard library in parallel: a real workload on this machine, in seconds.

    Then one process does the same again. The exit code is 1 if the two do not count the same.

    Example: zmqtasks demo --broker
    """
    from zmqtasks.cli.demonstration import demonstrate

    if broker and pipeline:
        raise typer.BadParameter("--broker excludes --pipeline")
    if not demonstrate(path, workers, broker=broker, pipeline=pipeline, as_json=as_json):
        raise typer.Exit(1)
