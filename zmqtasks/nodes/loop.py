"""The sleep of an I/O thread: until a socket is ready, a deadline is due, or another thread wakes it."""

from __future__ import annotations

import contextlib
import os
import select
from time import monotonic
from typing import Protocol

_EPOLL = getattr(select, "epoll", ())
_WAKE_BYTES = 4096


class HasFile(Protocol):
    """A socket, or what has one."""

    def fileno(self) -> int:
        """Its descriptor."""


class Loop:
    """One thread sleeps in `wait`; any thread may `wake` it."""

    def __init__(self) -> None:
        self.asleep = False  # about to sleep, or asleep: only then a wake-up is worth its system call
        self._poll = select.epoll() if hasattr(select, "epoll") else select.poll()
        self._in, self._out = os.pipe()
        for file in (self._in, self._out):
            os.set_blocking(file, False)
        self._poll.register(self._in, select.POLLIN)

    def watch(self, what: HasFile, *, write: bool = False, known: bool = False) -> None:
        """Wake when it can be read, with `write` also when it can be written; `known` if it is watched already."""
        events = select.POLLIN | (select.POLLOUT if write else 0)
        if known:
            self._poll.modify(what.fileno(), events)
        else:
            self._poll.register(what.fileno(), events)

    def unwatch(self, what: HasFile | int) -> None:
        """Not any more."""
        self._poll.unregister(what if isinstance(what, int) else what.fileno())

    def wait(self, deadline: float | None) -> list[int]:
        """Sleep; the descriptors that are ready. The caller sets `asleep` before it looks for work a last time."""
        timeout = None
        if deadline is not None:
            # epoll counts seconds, poll milliseconds; both round down, and a turn before the deadline is a turn in vain
            seconds = max(0.0, deadline - monotonic())
            timeout = seconds + 0.0005 if isinstance(self._poll, _EPOLL) else seconds * 1000 + 0.5
        ready = [file for file, _ in self._poll.poll(timeout)]
        self.asleep = False
        if self._in in ready:
            ready.remove(self._in)
            with contextlib.suppress(BlockingIOError):
                os.read(self._in, _WAKE_BYTES)
        return ready

    def wake(self) -> None:
        """End the sleep; from any thread."""
        self.asleep = False  # one wake-up is enough
        with contextlib.suppress(OSError):  # it is awake, or gone
            os.write(self._out, b"!")

    def close(self) -> None:
        """No more sleeping."""
        if isinstance(self._poll, _EPOLL):
            self._poll.close()
        os.close(self._in)
        os.close(self._out)
        self._in = self._out = -1
