"""The command line: `main` reads the arguments, runs a command and says in one line what went wrong.

Importing this package is free: typer and rich come with `main`, so that a worker that runs a function
of one of its modules never loads them. Help and completion load every command: what a command runs, it is to
import when it runs.
"""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

from zmqtasks.cli.exits import Exit, exit_of
from zmqtasks.errors import ZmqTasksError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: those of the process) ask for, and return its exit code.

    The codes are those of `Exit`. An error is one line on standard error; with `--debug`, or `ZMQTASKS_DEBUG=1` in
    the environment, its traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("ZMQTASKS_DEBUG", "0") not in ("", "0")
    try:
        return _run(given or ["--help"])
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again
        return Exit.FAILED
    except Exception as error:  # noqa: BLE001 - whatever it is, it is said
        if debug:
            traceback.print_exc()
            return exit_of(error)
        text, kind = str(error), type(error).__name__
        ours = isinstance(error, ZmqTasksError)  # it speaks to the user: its type has nothing to add
        _complain(text if text and ours else f"{kind}: {text}" if text else kind)
        return exit_of(error)


def _run(arguments: list[str]) -> int:
    """Run the program; its usage errors are reported here."""
    import typer

    from zmqtasks.cli.config import complaint

    usage_error: Any = typer.BadParameter.__mro__[1]  # the base of all usage errors, under no name that lasts
    try:
        code = tree().main(arguments, prog_name="zmqtasks", standalone_mode=False)
    except typer.Abort:
        return Exit.INTERRUPTED
    except usage_error as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "zmqtasks")
        if not (said := complaint(error)):  # a group without a command, whose help was shown
            return Exit.FINE
        _complain(f"{said} (see {command} --help)")
        return Exit.USAGE
    return code if isinstance(code, int) else 0


def tree() -> Any:
    """Build the program out of its commands."""
    import typer

    from zmqtasks.cli.broker import broker
    from zmqtasks.cli.config import name_variables, read_files
    from zmqtasks.cli.demo import demo
    from zmqtasks.cli.inspect import inspect
    from zmqtasks.cli.keys import keys
    from zmqtasks.cli.look import explain, list_tasks, status
    from zmqtasks.cli.sink import sink
    from zmqtasks.cli.tasks import cancel, result, submit
    from zmqtasks.cli.ventilator import VentilatorCommand, ventilator
    from zmqtasks.cli.worker import worker

    def version(asked: bool) -> None:
        if asked:
            from zmqtasks import __version__

            typer.echo(f"zmqtasks {__version__}")
            raise typer.Exit

    def program(
        context: typer.Context,
        version: Annotated[  # noqa: ARG001 - its callback has answered
            bool,
            typer.Option("--version", callback=version, is_eager=True, help="Print the version and exit."),
        ] = False,
        debug: Annotated[  # noqa: ARG001 - for the help; `main` looks for it
            bool, typer.Option("--debug", envvar="ZMQTASKS_DEBUG", help="Show the traceback of an error.")
        ] = False,
    ) -> None:
        """Tasks for Python over ZeroMQ, with no server to install."""
        read_files(context)  # not before: `zmqtasks --help` helps whatever they hold

    app = typer.Typer(rich_markup_mode="rich")
    app.callback()(program)
    app.command()(demo)
    app.add_typer(keys, name="keys")
    for command in (broker, worker, submit, result, cancel):
        app.command()(command)
    app.command(cls=VentilatorCommand)(ventilator)
    app.command()(sink)
    app.command("list")(list_tasks)
    app.command()(status)
    app.command()(explain)
    app.add_typer(inspect, name="inspect")
    commands: Any = typer.main.get_command(app)
    name_variables(commands)
    _unfold(commands)
    return commands


def _unfold(command: Any) -> None:
    """Let a paragraph of help be one line, so that it is folded where the terminal ends and nowhere else."""
    command.help = re.sub(r"(?<=\S)\n(?=\S)", " ", command.help or "")
    for below in getattr(command, "commands", {}).values():
        _unfold(below)


def _complain(text: str) -> None:
    sys.stderr.write(f"zmqtasks: {' '.join(text.split())}\n")
