"""`zmqtasks ventilator`: inputs through a function or a command on many workers, and their results to a file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from zmqtasks.cli.exits import Exit
from zmqtasks.cli.options import AsJson, Debug, KeyFile, Level, LogLevel, address, bind_address, duration

if TYPE_CHECKING:
    from zmqtasks.stream.inputs import Inputs
    from zmqtasks.stream.rendering import Rendered

BIND = "tcp://127.0.0.1:5557"
"""Where workers find a ventilator that has none of its own, unless somebody says otherwise."""

_VALUES = "zmqtasks.values"

_log = logging.getLogger("zmqtasks")


class Format(StrEnum):
    """What an input is."""

    LINES = "lines"
    JSONL = "jsonl"
    CSV = "csv"


class OnBadInput(StrEnum):
    """What an input that cannot be read does."""

    STOP = "stop"
    SKIP = "skip"


class Notation(StrEnum):
    """How a result is written."""

    JSON = "json"
    REPR = "repr"
    PICKLE = "pickle"


class VentilatorCommand(TyperCommand):
    """The command, where all that comes after ::: is a value, whatever it looks like."""

    def collect_usage_pieces(self, context: Any) -> list[str]:  # noqa: ARG002 - as it is called
        """Return what the first line of the help has."""
        return ["[OPTIONS]", "TARGET", "[INPUT]...", "[::: VALUE...]"]

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        """Take the values off before options are looked for."""
        if ":::" in args:
            at = args.index(":::")
            context.meta[_VALUES] = args[at + 1 :]
            args = args[:at]
        parsed: list[str] = super().parse_args(context, args)
        return parsed


def ventilator(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET INPUT...",
            help="module:function or file.py:function, but not with --exec; then files, globs, - for standard input.",
            show_default=False,
        ),
    ] = None,
    exec_: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="COMMAND",
            help="Run a shell command: {} is the input, {.} {/} {//} {/.} {#} as in GNU parallel.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Start N children on this machine as well."),
    ] = None,
    bind: Annotated[
        str | None,
        typer.Option(
            "--bind",
            parser=bind_address,
            metavar="ADDRESS",
            help="Where workers find it; with --workers nowhere, by default.",
            show_default=BIND,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write a line of JSON an input here, .gz and .zst compressed; - is standard output.",
            show_default="results as they are, to standard output",
        ),
    ] = None,
    ordered: Annotated[
        bool,
        typer.Option("--ordered/--unordered", help="Results in the order of the inputs, or as they come."),
    ] = False,
    format_: Annotated[Format, typer.Option("--format", help="What an input is.")] = Format.LINES,
    notation: Annotated[
        Notation, typer.Option("--result", help="How a result is written that JSON may not have.")
    ] = Notation.JSON,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the output that is there.")] = False,
    resume_failed: Annotated[
        bool, typer.Option("--resume-failed", help="As --resume, and do again what has failed.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
    on_bad_input: Annotated[
        OnBadInput,
        typer.Option("--on-bad-input", help="Stop at an input that cannot be read, or have it fail."),
    ] = OnBadInput.STOP,
    halt: Annotated[
        int, typer.Option("--halt", min=0, metavar="N", help="Stop after N failures.", show_default="never")
    ] = 0,
    retry: Annotated[
        int, typer.Option("--retry", min=0, metavar="N", help="Run an input that fails so often again.")
    ] = 0,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit", parser=duration, metavar="DURATION", help="End an input that runs longer."
        ),
    ] = None,
    window: Annotated[
        int,
        typer.Option(
            "--window", min=1, metavar="N", help="Inputs that may be on their way before reading waits."
        ),
    ] = 100_000,
    then: Annotated[
        str | None,
        typer.Option(
            "--then",
            metavar="TARGET",
            help="Call it with the list of all results, in order; what it returns is the result.",
            show_default=False,
        ),
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option(
            "--fold",
            metavar="TARGET",
            help="Call it with the state and each result as they come; the first result is the first state.",
            show_default=False,
        ),
    ] = None,
    sink: Annotated[
        str | None,
        typer.Option(
            "--sink", parser=address, metavar="ADDRESS", help="Where a zmqtasks sink takes the results."
        ),
    ] = None,
    key: KeyFile = None,
    wait_workers: Annotated[
        float | None,
        typer.Option(
            "--wait-workers",
            parser=duration,
            metavar="DURATION",
            help="Wait no longer for a first worker: then the exit code is 69.",
            show_default="for ever",
        ),
    ] = None,
    shutdown_timeout: Annotated[
        float,
        typer.Option(
            "--shutdown-timeout",
            parser=duration,
            metavar="DURATION",
            help="After TERM or Ctrl-C, how long to wait for what runs.",
            show_default="30s",
        ),
    ] = 30.0,
    progress: Annotated[
        bool | None,
        typer.Option(
            "--progress/--no-progress",
            help="Show how far it is: a bar on a terminal, unless results are shown there, and lines elsewhere.",
        ),
    ] = None,
    as_json: AsJson = False,
    log_level: LogLevel = Level.INFO,
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Stream inputs through a function, or a shell command, on this machine's cores or many machines.

    Example: zmqtasks ventilator text.py:count 'logs/*.gz' --workers 8 -o counts.jsonl

    Example: zmqtasks ventilator --exec 'gzip -k {}' --workers 8 ::: *.txt

    Without an INPUT it reads standard input. Results are printed as they are, or with -o are lines of JSON with their
    input. Workers of other machines: --bind tcp://0.0.0.0:5557 here, zmqtasks worker --ventilator tcp://HOST:5557
    there. After an interruption the same command with --resume does the rest. The exit code is 1 if an input failed.
    """
    from zmqtasks import engine
    from zmqtasks.cli.broker import reachable, unbindable
    from zmqtasks.cli.service import Signals, log_to_stderr
    from zmqtasks.cli.streaming import Run, display, tell
    from zmqtasks.cli.target import resolve
    from zmqtasks.stream.results import Output

    log_to_stderr(log_level)
    words, values = arguments or [], context.meta.get(_VALUES)
    joins, resumes = then is not None or fold is not None, resume or resume_failed
    _refuse(
        {
            "a TARGET is missing, or --exec": exec_ is None and not words,
            "--then excludes --fold": then is not None and fold is not None,
            "--then and --fold need a TARGET": joins and exec_ is not None,
            "--then and --fold give one result: there is nothing to resume": joins and resumes,
            "--overwrite excludes --resume": overwrite and resumes,
            "--result is for a TARGET": notation is not Notation.JSON and exec_ is not None,
            "with --sink the output is the sink's": sink is not None and output is not None,
            "with --sink it is the sink that resumes: zmqtasks sink --resume": sink is not None and resumes,
            "--then and --fold join the results here: there is no --sink": joins and sink is not None,
            "inputs are files or what is after :::, not both": values is not None
            and len(words) > (exec_ is None),
            "--format csv is for files": values is not None and format_ is Format.CSV,
        }
    )
    text = output is None and not as_json and sink is None
    function = (
        _command(exec_, text=text, retries=retry)
        if exec_ is not None
        else _function(words.pop(0), notation, text=text, retries=retry, joins=joins)
    )
    body = resolve(then or fold or "") if joins else None
    inputs = _inputs(words, values, format_, on_bad_input, output)
    path = None if output is None else str(output)
    with Output(
        path, overwrite=overwrite, resume=resume, resume_failed=resume_failed, ordered=ordered
    ) as out:
        tell(out)
        shown = display(asked=False if joins else progress, to_stdout=out.path == "-")
        run = Run(inputs, out, shown, halt=halt)
        try:
            made = engine.Engine(
                function,
                workers=workers or 0,
                bind=bind or (None if workers else BIND),
                key=key,
                sink=sink,
                retry=retry,
                time_limit=time_limit,
                window=window,
                wait_workers=wait_workers,
            )
        except OSError as error:
            raise unbindable(error) from error
        with made as pipeline:
            signals = Signals(
                pipeline.stop,
                f"what runs is finished, in {shutdown_timeout:g} s at the latest",
                shutdown_timeout,
                lambda: pipeline.stop(cold=True),
            )
            if pipeline.address:
                more = "more " if workers else ""
                _log.info("for %sworkers: zmqtasks worker --ventilator %s", more, reachable(pipeline.address))
            if body is not None:
                try:
                    out.write(run.join(pipeline, body, folds=fold is not None, text=text))
                except KeyboardInterrupt:
                    _log.warning("it was stopped before all inputs were through: there is no result")
            else:
                run.go(pipeline, ordered=ordered)
            failed = run.failed or out.failed or pipeline.failed_before
    if signals.code or run.is_halted:
        if sink is not None:
            _log.info("the same command does the rest, and its sink with --resume")
        elif out.can_be_resumed and not joins:
            _log.info("the same command with --resume does the rest")
    raise typer.Exit(signals.code or (Exit.FAILED if failed else Exit.FINE))


def _refuse(rules: dict[str, bool]) -> None:
    """Raise the usage error of the first rule that is broken."""
    for rule, broken in rules.items():
        if broken:
            raise typer.BadParameter(rule)


def _command(template: str, *, text: bool, retries: int) -> Rendered:
    from zmqtasks.stream.rendering import RenderedCommand

    try:
        return RenderedCommand(template, text=text, retries=retries)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--exec") from None


def _function(
    target: str, notation: Notation, *, text: bool, retries: int, joins: bool
) -> Callable[..., Any]:
    """Return what the workers run: what a join takes is results as they are."""
    from zmqtasks.cli.target import resolve
    from zmqtasks.stream.rendering import Named, RenderedFunction

    function = resolve(target)
    if joins:
        return Named(function)
    return RenderedFunction(function, text=text, notation=notation.value, retries=retries)


def _inputs(
    words: list[str], values: list[str] | None, format_: Format, on_bad: OnBadInput, output: Path | None
) -> Inputs:
    from zmqtasks.stream.inputs import Files, Values

    if values is not None:
        return Values(values, format="jsonl" if format_ is Format.JSONL else "lines", on_bad=on_bad.value)
    if not words and sys.stdin is not None and sys.stdin.isatty():
        _log.info("inputs are read from this terminal: Ctrl-D ends them")
    files = Files(words or ["-"], format=format_.value, on_bad=on_bad.value)
    if (
        output is not None
        and output.exists()
        and any(path != "-" and output.samefile(path) for path in files.paths)
    ):
        raise typer.BadParameter(
            f"'{output}' is an input", param_hint="--output"
        )  # --overwrite would empty it
    return files
