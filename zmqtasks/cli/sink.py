"""`zmqtasks sink`: writes the results of a pipeline, in a process of its own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from zmqtasks.cli.exits import CommandError, Exit
from zmqtasks.cli.options import Debug, Level, LogLevel, ServerKey, bind_address, store_of

BIND = "tcp://127.0.0.1:5558"

_log = logging.getLogger("zmqtasks")


def sink(
    bind: Annotated[
        str,
        typer.Option("--bind", parser=bind_address, metavar="ADDRESS", help="Where to listen."),
    ] = BIND,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the lines of JSON here, .gz and .zst compressed.",
            show_default="standard output",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the output that is there.")] = False,
    resume_failed: Annotated[
        bool, typer.Option("--resume-failed", help="As --resume, and do again what has failed.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
    key: ServerKey = None,
    log_level: LogLevel = Level.INFO,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Write what the workers of one pipeline send, each input's result once.

    Example: zmqtasks sink -o results.jsonl

    Then: zmqtasks ventilator work.py:function 'in/*.txt' --workers 4 --sink tcp://127.0.0.1:5558

    It ends with its pipeline, with exit code 1 if an input failed. When it is stopped or killed the pipeline waits: the
    same command with --resume goes on with what is missing. For other machines: zmqtasks keys init, and --bind
    tcp://0.0.0.0:5558.
    """
    from zmqtasks.cli.broker import reachable, unbindable
    from zmqtasks.cli.service import Signals, log_to_stderr
    from zmqtasks.cli.streaming import tell
    from zmqtasks.nodes.sink import SinkNode
    from zmqtasks.stream.results import Output

    log_to_stderr(log_level)
    if overwrite and (resume or resume_failed):
        raise typer.BadParameter("--overwrite excludes --resume")
    store = store_of(key)
    with Output(output, overwrite=overwrite, resume=resume, resume_failed=resume_failed) as out:
        tell(out)
        try:
            node = SinkNode(bind, store, out)
        except OSError as error:
            raise unbindable(error) from error
        signals = Signals(node.stop, "the sink ends, and its pipeline waits for another one", 0)
        _log.info(
            "the sink listens at %s; zmqtasks ventilator ... --sink %s", node.address, reachable(node.address)
        )
        node.run()
    failed = node.failed + out.failed
    _log.info("%d written, %d of all failed", node.done, failed)
    if not node.is_over:
        raise typer.Exit(signals.code)
    if not node.is_complete:
        raise CommandError(
            "the ventilator has stopped before its end: the same, and this with --resume, do the rest"
        )
    raise typer.Exit(Exit.FAILED if failed else Exit.FINE)
