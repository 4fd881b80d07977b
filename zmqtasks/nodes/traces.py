"""What tasks leave beside their outcomes: half a line, a last word on their progress, that they are unwanted."""

from __future__ import annotations

from collections.abc import Callable

from zmqtasks.nodes.output import redirect
from zmqtasks.nodes.reporter import Reporter
from zmqtasks.wire import Progress


class Traces:
    """Those of one child. `name`: of the running task; `send`: a word on progress to the host."""

    def __init__(self, name: Callable[[], str], log_level: int, send: Callable[[Progress], None]) -> None:
        self.left = False  # there is something to be wiped when the running task is over
        self.unwanted: set[int] = set()  # ids that were cancelled while they ran
        self._send = send
        self._reporter: Reporter | None = None
        self._at_end: list[Callable[[], None]] = []
        self._streams = redirect(name, self.leave, log_level)

    def leave(self) -> None:
        """The running task leaves something."""
        self.left = True

    def drop(self, id_: int) -> None:
        """Nobody wants the running task `id_` any more."""
        self.left = True
        self.unwanted.add(id_)

    def report(self, progress: Progress) -> None:
        """How far the running task is: soon, and before its outcome."""
        if self._reporter is None:
            self._reporter = Reporter(self._send)
        self._reporter.put(progress)
        self.left = True

    def at_end(self, call: Callable[[], None]) -> None:
        """Call it when the running task is over."""
        if call not in self._at_end:
            self._at_end.append(call)
        self.left = True

    def wipe(self) -> None:
        """The task is over: its last line, its progress, and what was to be called then."""
        self.left = False
        for stream in self._streams:
            stream.end()
        if self._reporter is not None:
            self._reporter.send()
        self.unwanted.clear()
        while self._at_end:
            self._at_end.pop()()

    def wipe_one(self, id_: int) -> None:
        """The same where others go on."""
        unwanted = self.unwanted - {id_}
        self.wipe()
        self.unwanted |= unwanted
