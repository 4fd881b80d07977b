"""A terminal of 80 columns for programs that look where they write, and what they wrote on it."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios

from conftest import python_environment

COLUMNS, ROWS = 80, 40
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Run this Python with a terminal as its standard output and error; its exit code, and all that it wrote.

    Colours and movements of the cursor are taken out: a bar that was drawn five times is here five times.
    """
    reader, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**python_environment(), "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    written = b""
    try:
        with subprocess.Popen(
            [sys.executable, *arguments], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
        ) as process:
            os.close(terminal)
            try:
                while chunk := os.read(reader, 65536):
                    written += chunk
            except OSError:  # how Linux says that nobody has the terminal open any more
                pass
            except BaseException:
                process.kill()
                raise
    finally:
        os.close(reader)
    return process.returncode, CONTROLS.sub("", written.decode()).replace("\r\n", "\n")
