"""The command line: `main` reads the arguments, runs a command and says in one line what went wrong.

Importing this package is free: typer and rich come with `main`, so that a worker that runs a function
of one of its modules never loads them.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: those of the process) ask for, and return its exit code.

    0 fine, 1 failed, 2 usage, 130 interrupted. An error is one line on standard error; with `--debug`, or
    `ZMQTASKS_DEBUG=1` in the environment, what failed is raised instead.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("ZMQTASKS_DEBUG", "0") not in ("", "0")
    try:
        return _run(given or ["--help"])
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again
        return 1
    except Exception as error:
        if debug:
            raise
        text = str(error)
        _complain(f"{type(error).__name__}: {text}" if text else type(error).__name__)
        return 1


def _run(arguments: list[str]) -> int:
    """Build the program out of its commands and run it; its usage errors are reported here."""
    import typer

    from zmqtasks.cli.demo import demo

    def version(asked: bool) -> None:
        if asked:
            from zmqtasks import __version__

            typer.echo(f"zmqtasks {__version__}")
            raise typer.Exit

    def program(
        version: Annotated[
            bool,
            typer.Option("--version", callback=version, is_eager=True, help="Print the version and exit."),
        ] = False,
        debug: Annotated[
            bool, typer.Option("--debug", envvar="ZMQTASKS_DEBUG", help="Show the traceback of an error.")
        ] = False,
    ) -> None:
        """Tasks for Python over ZeroMQ, with no server to install."""

    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.callback()(program)
    app.command()(demo)
    usage_error: Any = typer.BadParameter.__mro__[1]  # the base of all usage errors, under no name that lasts
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="zmqtasks", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    except usage_error as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "zmqtasks")
        _complain(f"{error.format_message().rstrip('.')} (see {command} --help)")
        return 2
    return code if isinstance(code, int) else 0


def _complain(text: str) -> None:
    sys.stderr.write(f"zmqtasks: {' '.join(text.split())}\n")
