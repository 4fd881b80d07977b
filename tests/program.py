"""The program `zmqtasks` as its users run it: processes of their own, with a folder and keys that nobody else has."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import pytest
from conftest import free_port, python_environment, until

from zmqtasks.cli import main

if TYPE_CHECKING:
    from types import TracebackType

JOBS = """
import os, time
from pathlib import Path

def add(x, y=1):
    return x + y

def fails(text):
    raise ValueError(text)

class Odd:
    def __repr__(self):
        return "Odd()"

def odd():
    return Odd()

def begins(folder):
    "Say that it runs, and end when it is told to."
    Path(folder, "begun").write_text(str(os.getpid()))
    while not Path(folder, "end").exists():
        time.sleep(0.01)
    return "ended"
"""
LISTENS = r"listens at (.*?); its queue is in memory only"


def stub(folder: Path) -> Path:
    """Put a program `zmqtasks` into `folder`: this Python, with the zmqtasks that is under test."""
    program = folder / "bin" / "zmqtasks"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m zmqtasks "$@"\n')
    program.chmod(0o755)
    return program


class Program:
    """One run of it; what it writes is in files of `folder`."""

    def __init__(self, folder: Path, *command: str, environment: dict[str, str]) -> None:
        number = sum(1 for _ in folder.glob("*.stderr"))
        self._files = tuple(folder / f"{number}.{name}" for name in ("stdout", "stderr"))
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def out(self) -> str:
        """What it has written to standard output."""
        return self._files[0].read_text()

    @property
    def err(self) -> str:
        """What it has written to standard error."""
        return self._files[1].read_text()

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until it has written that to standard error."""

        def fact() -> re.Match[str] | None:
            if (found := re.search(pattern, self.err)) is None and self._process.poll() is not None:
                pytest.fail(
                    f"it ended with {self._process.returncode} without saying {pattern!r}: {self.err}"
                )
            return found

        fact.__doc__ = f"it says {pattern!r}"
        match: re.Match[str] = until(fact, within_s=30)
        return match

    def signal(self, number: int) -> None:
        """Send it a signal, and to nothing else."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 30) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait(timeout_s)

    def end(self) -> None:
        """Kill it, with its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class Inside:
    """One run of it in this process, which has ended; as a `Program`, for what needs no process of its own."""

    def __init__(self, folder: Path, *arguments: str, environment: dict[str, str]) -> None:
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        handlers, modules = {number: signal.getsignal(number) for number in numbers}, {*sys.modules}
        root = logging.getLogger()
        loggers, root.handlers = root.handlers, []  # or what it logs is the runner's
        with (
            pytest.MonkeyPatch.context() as patch,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.chdir(folder)
            patch.setattr(sys, "path", list(sys.path))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            kept = [(os.dup(number), number) for number in (1, 2)]
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            try:
                self._code = main([*arguments])
            finally:
                for copy, number in kept:
                    os.dup2(copy, number)
                    os.close(copy)
                signal.setitimer(signal.ITIMER_REAL, 0)
                for signum, handler in handlers.items():
                    signal.signal(signum, handler)
                root.handlers = loggers
                root.setLevel(logging.WARNING)
                for name in [name for name in sys.modules if name not in modules]:
                    if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                        del sys.modules[name]
            self.out, self.err = _all_of(out), _all_of(err)

    def wait(self) -> int:
        """Its exit code."""
        return self._code


def _all_of(file: IO[str]) -> str:
    file.flush()
    file.seek(0)
    return file.read()


class World:
    """`with World(folder) as world:` a machine with keys of its own; what is started there ends with the block.

    The folder has a module `jobs`, and is where everything runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = folder / "keys"
        (folder / "jobs.py").write_text(JOBS)
        (folder / "pyproject.toml").touch()  # files above are no business of ours
        self.environment = {**python_environment(), "ZMQTASKS_KEYS": str(self.keys)}
        self.crew: Any = None  # a worker's process, for a fixture that has one
        self._stack = ExitStack()

    def use_keys(self, folder: Path) -> None:
        """Have the keys of another machine, copied as it were."""
        self.keys = folder
        self.environment["ZMQTASKS_KEYS"] = str(folder)

    def start(self, *arguments: str, prefix: tuple[str, ...] = (), **environment: str) -> Program:
        """Start the program; `prefix` is what its command line begins with."""
        return self.run(*prefix, sys.executable, "-m", "zmqtasks", *arguments, **environment)

    def run(self, *command: str, **environment: str) -> Program:
        """Start any program."""
        program = Program(self.folder, *command, environment={**self.environment, **environment})
        self._stack.callback(program.end)
        return program

    def inside(self, *arguments: str) -> Inside:
        """As `here`, with what other processes write to its standard output and error, and its handling of signals."""
        return Inside(self.folder, *arguments, environment=self.environment)

    def ended(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Run the program to its end: exit code, output, errors."""
        program = self.start(*arguments, **environment)
        return program.wait(), program.out, program.err

    def here(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """As `ended`, for a command that serves nobody: in this process, which costs no start of an interpreter."""
        before = set(sys.modules)
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out:
            for name, value in {**self.environment, **environment}.items():
                if name.startswith("ZMQTASKS_"):
                    patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "path", list(sys.path))
            with redirect_stderr(StringIO()) as err:
                code = main(arguments)
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(f"{self.folder}{os.sep}"):
                del sys.modules[name]
        return code, out.getvalue(), err.getvalue()

    def seen(self, *arguments: str) -> Any:
        """What a command that only looks says in JSON."""
        code, out, err = self.here(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    def broker(self, *arguments: str, bind: str = "") -> tuple[Program, str]:
        """Start a broker; it, and where it listens, as another one may later."""
        bind = bind or f"tcp://127.0.0.1:{free_port()}"
        program = self.start("broker", "--bind", bind, *arguments)
        return program, program.says(LISTENS)[1]

    def worker(self, address: str, *arguments: str) -> Program:
        """Start a worker that the broker has taken in."""
        program = self.start("worker", address, *arguments)
        program.says(r"at a time")
        return program

    def begun(self) -> int:
        """Wait until the task `jobs:begins` runs; the id of the process that it runs in."""
        file = self.folder / "begun"
        return int(until(lambda: file.exists() and file.read_text(), within_s=30))

    def end(self) -> None:
        """End all that runs there."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
