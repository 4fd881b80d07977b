"""What a task prints and logs, on the terminal of the caller, each line with the task's name before it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import sys
from collections.abc import Callable


class TaskStream(io.TextIOBase):
    """Stands for `sys.stdout` or `sys.stderr` in a child: whole lines go out at once, and never two at a time."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, file: int, name: Callable[[], str], trace: Callable[[], None]) -> None:
        self._file = file
        self._name = name
        self._trace = trace  # there will be a line to end
        self._line = ""  # not ended yet
        self._begun = False  # the start of that line is out already
        self.open = False  # there is such a line
        self.buffer = io.BufferedWriter(io.FileIO(file, "w", closefd=False))

    def fileno(self) -> int:
        """Of the caller's stream."""
        return self._file

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Whole lines go out, the rest waits for its end, or for `flush`."""
        *lines, self._line = (self._line + text).split("\n")
        if self._line:
            self.open = True
            self._trace()
        else:
            self.open = False
        if lines:
            name = self._name()
            start = f"[{name}] " if name else ""
            first = "" if self._begun else start
            self._begun = False
            self._put(first + f"\n{start}".join(lines) + "\n")
        return len(text)

    def flush(self) -> None:
        """A line without an end goes out as far as it is there."""
        self.buffer.flush()
        if self._line:
            name = self._name()
            self._put(("" if self._begun or not name else f"[{name}] ") + self._line)
            self._line = ""
            self._begun = self.open = True

    def end(self) -> None:
        """The task is over: so is its last line."""
        if self.open:
            self.write("\n")

    def _put(self, text: str) -> None:
        data = memoryview(text.encode(self.encoding, self.errors))
        while data:
            try:
                data = data[os.write(self._file, data) :]
            except BlockingIOError:  # the caller's terminal may be non-blocking
                select.select([], [self._file], [])
            except OSError:  # nobody reads it any more
                return


def redirect(
    name: Callable[[], str], trace: Callable[[], None], log_level: int
) -> tuple[TaskStream, TaskStream]:
    """Put task streams in the place of this process's, and logging of `log_level` and above on standard error."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    out, err = TaskStream(1, name, trace), TaskStream(2, name, trace)
    sys.stdout, sys.stderr = out, err
    logging.basicConfig(level=log_level, stream=err, format="%(levelname)s %(name)s: %(message)s", force=True)
    return out, err
