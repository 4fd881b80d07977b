"""What the long-running commands have in common: what they log, and how signals end them."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from zmqtasks.cli.options import Level

__all__ = ["Signals", "log_to_stderr"]

_SHELLS = 128  # what a shell adds to the number of a signal that ended something

_log = logging.getLogger("zmqtasks")


def log_to_stderr(level: Level) -> None:
    """Log one line each, with the time of day."""
    logging.basicConfig(
        level=level.name,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )


class Signals:
    """TERM and INT call `stop`, QUIT calls `quit` (default: as TERM does); USR1 prints the stacks of all threads.

    `promise` is what the first TERM or INT says, with how to say it twice. After `limit_s` seconds it is said twice.
    """

    def __init__(
        self,
        stop: Callable[[], object],
        promise: str,
        limit_s: float,
        quit_: Callable[[], object] | None = None,
    ) -> None:
        self._stop = stop
        self._promise = promise
        self._limit_s = limit_s
        self._quit = quit_ or stop
        self._first = 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._hear)
        faulthandler.register(signal.SIGUSR1, all_threads=True)

    @property
    def code(self) -> int:
        """The exit code: 0 without a signal."""
        return _SHELLS + self._first if self._first else 0

    @staticmethod
    def end() -> None:
        """No alarm any more: an interpreter that ends does not hear it, and would die of it."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGQUIT:
            self._first = self._first or number
            self._quit()
            return
        if not self._first:
            self._first = number
            say(f"{signal.Signals(number).name}: {self._promise}; a second one ends it now")
            if self._limit_s:
                signal.signal(signal.SIGALRM, lambda *_: self._stop())
                signal.setitimer(signal.ITIMER_REAL, self._limit_s)
        self._stop()


def say(text: str) -> None:
    """Log from a signal handler, which may have come in the middle of another line's making."""
    if _log.isEnabledFor(logging.INFO):
        os.write(2, f"{time.strftime('%H:%M:%S')} INFO {text}\n".encode())
