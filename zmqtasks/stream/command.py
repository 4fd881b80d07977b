"""Commands: `gzip -k {}` as a function of an item.

An item is never part of what a shell reads: it gets the template with `"${1}"` where `{}` stood, and the item as an
argument, so that nothing in an item can be code, whatever quotes the template has around it. A template without
anything that a shell is needed for is started without one. A command that hands its arguments to another shell, or to
`eval`, answers for that itself.

A command stays in the process group of the child that runs it, and dies with it. Its standard input is empty. It is
over when whatever has its output open has closed it, as in a shell's `$(...)`.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from typing import Any

import msgspec

from zmqtasks.errors import CommandFailed
from zmqtasks.stream.template import template

OUTPUT_BYTES_MAX = 64 << 20
"""What a command may write before it is ended: it would be held in memory, by several processes."""

_READ_BYTES = 1 << 16
_IGNORED = [signal.SIGPIPE, signal.SIGXFSZ]  # by Python, and so by what it starts
_NOT_RUN, _NOT_FOUND, _SIGNALLED = 126, 127, 128
_SHELL = "/bin/sh"

_encode = msgspec.json.Encoder().encode


class Command:
    """A template (see `template`) as a function of an item and its index; {} is added if it has no replacement string.

    A `ValueError` for a template that makes no command. Which program it means is found out where it runs.
    """

    def __init__(self, text: str) -> None:
        self._template = template(text)
        self._program: str | None = (
            None  # its path, once it was looked for; "" where only a shell may know it
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Command, (self._template.text,)

    def run(self, index: int, item: Any) -> tuple[bytes, bytes]:
        """Run it and return its standard output and error; a `CommandFailed` unless its status is 0."""
        text = item if type(item) is str else _encode(item).decode()
        if "\0" in text:
            raise CommandFailed("the input has a NUL, which no command can be given", _NOT_RUN)
        known = self._template
        if self._program is None:
            self._program = _found(known.program)
        if self._program:
            status, stdout, stderr = _run(self._program, known.arguments(text, index))
        else:
            script = ["sh", "-c", known.script, "sh"]
            status, stdout, stderr = _run(_SHELL, script + known.parameters(text, index))
        if status:
            raise CommandFailed(_described(status, stderr), status, stdout, stderr)
        return stdout, stderr


def _found(program: str) -> str:
    """The path of a program; "" if only a shell may know it."""
    if "/" in program or not program:
        return program
    for folder in os.get_exec_path():
        path = os.path.join(folder, program)  # noqa: PTH118 - a child starts without pathlib
        if os.access(path, os.X_OK) and os.path.isfile(path):  # noqa: PTH113 - likewise
            return path
    return ""


def _run(program: str, arguments: list[str]) -> tuple[int, bytes, bytes]:
    """Run a program: its status as a shell has it, its standard output and error."""
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    try:
        pid = _started(program, arguments, out_end, err_end)
        try:
            written = _read(out, err)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            _, status = os.waitpid(pid, 0)
    finally:
        os.close(out)
        os.close(err)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _SIGNALLED - code, *written


def _started(program: str, arguments: list[str], out: int, err: int) -> int:
    """Start a program that writes to `out` and `err`, which are closed here, and return its pid."""
    try:
        return os.posix_spawn(
            program,
            arguments,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, err, 2),
            ],
            setsigdef=_IGNORED,
        )
    except OSError as error:
        raise _unstartable(arguments[0], error) from None
    finally:
        os.close(out)
        os.close(err)


def _read(out: int, err: int) -> tuple[bytes, bytes]:
    """Read both to their ends, whichever has something first."""
    found: dict[int, list[bytes]] = {out: [], err: []}
    open_, size = {out, err}, 0
    poll = select.poll()
    poll.register(out, select.POLLIN)
    poll.register(err, select.POLLIN)
    while open_:
        for file, _ in poll.poll():
            piece = os.read(file, _READ_BYTES)
            found[file].append(piece)
            size += len(piece)
            if not piece:
                poll.unregister(file)
                open_.remove(file)
            elif size > OUTPUT_BYTES_MAX:
                raise CommandFailed(
                    f"it wrote more than {OUTPUT_BYTES_MAX >> 20} MiB, and was ended",
                    _SIGNALLED + signal.SIGKILL,
                )
    return b"".join(found[out]), b"".join(found[err])


def _unstartable(program: str, error: OSError) -> CommandFailed:
    if error.errno == errno.ENOENT:
        return CommandFailed(f"command not found: {program}", _NOT_FOUND)
    if error.errno == errno.E2BIG:
        return CommandFailed("the input is too long for the arguments of a command", _NOT_RUN)
    return CommandFailed(f"{program} cannot be run: {error.strerror}", _NOT_RUN)


def _described(status: int, stderr: bytes) -> str:
    """Say how a command ended, and the last thing that it said itself."""
    *_, last = ["", *filter(None, map(str.strip, stderr.decode("utf-8", "backslashreplace").splitlines()))]
    said = f": {last}" if last else ""
    if status == _NOT_FOUND:
        return f"command not found{said}"
    try:
        return f"ended by {signal.Signals(status - _SIGNALLED).name}{said}"
    except ValueError:
        return f"exit status {status}{said}"
