"""The two places where a pipeline's outcomes can go: into this process, or to a sink that is a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import zmq

from zmqtasks import codec, visit, wire
from zmqtasks.core.gather import Gather
from zmqtasks.core.parcels import BASE_MASK
from zmqtasks.keys import Key
from zmqtasks.messages import Accepted, Part
from zmqtasks.nodes.dealer import Dealer
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.mailbox import Mailbox
from zmqtasks.nodes.sockets import Sockets, endpoint
from zmqtasks.nodes.window import Unheard, Window

MAIL_MAX = 256  # messages of outcomes a turn
RETRY_S = 0.5  # between two tries to reach a sink

Accept = Callable[[Accepted], None]


class Intake(Protocol):
    """Where outcomes go."""

    address: str  # where workers find it; "" while nobody is there
    key: str  # its public key, "" if it is the ventilator's own

    def has_mail(self) -> bool:
        """Whether something has come; asked before each sleep."""

    def look(self, ready: list[int], now: float) -> bool:
        """Take in what has come; whether outcomes that were on their way are lost."""

    def begin(self, first: int, *, ordered: bool) -> None:
        """A run begins, its numbers from `first` on."""

    def end(self) -> None:
        """Nobody wants any more of the run's outcomes."""

    def put(self, base: int, offset: int, unheard: Unheard) -> None:
        """A failure that no worker can tell of."""

    def close(self) -> None:
        """It is over."""


class OwnIntake:
    """The sink is here: whoever iterates the run takes what comes out of `window`."""

    key = ""

    def __init__(self, pipeline: str, sockets: Sockets, loop: Loop, window: Window, accept: Accept) -> None:
        self._pipeline = pipeline
        self._window = window
        self._accept = accept
        self._gather: Gather | None = None  # of the run that is on
        self._mailbox = Mailbox(sockets.bind(zmq.PULL, sockets.beside("outcomes")))
        self.address = endpoint(self._mailbox.socket)
        loop.watch(self._mailbox)

    def has_mail(self) -> bool:
        """Whether something has come."""
        return self._mailbox.has_mail()

    def look(self, _ready: list[int], _now: float) -> bool:
        """Take in what has come."""
        for _ in range(MAIL_MAX):
            if (mail := self._mailbox.receive()) is None:
                break
            message = mail.message
            if message is None or type(message.head) is not wire.Yield:
                continue
            if message.head.pipeline == self._pipeline:
                for part in codec.yielded_parts(message):
                    self._take(part.ordinal & BASE_MASK, part)
        return False

    def begin(self, first: int, *, ordered: bool) -> None:
        """A run begins."""
        self._gather = Gather(first, ordered=ordered)

    def end(self) -> None:
        """What still comes is not heard."""
        self._gather = None

    def put(self, base: int, offset: int, unheard: Unheard) -> None:
        """A failure that no worker can tell of."""
        self._take(base, Part(base, offset, 1, failed=True, payload=unheard))

    def _take(self, base: int, part: Part) -> None:
        if self._gather is None:
            return
        new, out = self._gather.take(base + part.offset, part.items, part.payload, failed=part.failed)
        for piece in new:
            self._accept(Accepted(base, piece.first - base, piece.items))
        if new:
            self._window.accepted(new, out)

    def close(self) -> None:
        """The socket is closed with the others."""


class FarIntake:
    """The sink is a process of its own: it says what it has written. `render` makes of a failure what it writes.

    When it is lost, so is what was on the way to it; when it is back it says what it has.
    """

    address = ""

    def __init__(
        self,
        pipeline: str,
        sink: str,
        key: Key | None,
        loop: Loop,
        accept: Accept,
        render: Callable[[Unheard], bytes],
    ) -> None:
        self.key = key.server if key is not None else ""
        self.failed = 0  # inputs, as far as the sink has said
        self.refused = ""  # why the sink will not have this pipeline
        self._pipeline = pipeline
        self._accept = accept
        self._render = render
        self._dealer = Dealer(loop, sink, key)
        self._dealer.connect()
        self._ordered = False
        self._retry_at: float | None = None

    def has_mail(self) -> bool:
        """Whether the sink has said something."""
        return self._dealer.has_mail()

    def look(self, ready: list[int], now: float) -> bool:
        """Hear the sink; whether it was lost."""
        lost = False
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._dealer.connect()
        news = self._dealer.look(ready)
        self.refused = self.refused or self._dealer.refused
        if news == "up":
            self._dealer.send(codec.simple(visit.Collect(self._pipeline, self._ordered)))
        elif news == "down":
            lost = self._lose(now)
        while self._dealer.has_mail() and (mail := self._dealer.mailbox.receive()) is not None:
            if mail.message is None:
                continue
            head = mail.message.head
            if type(head) is visit.Collecting:
                self.address = head.address
                for first, limit in head.have:
                    self._accept(Accepted(first, 0, limit - first))
            elif type(head) is visit.Written:
                self.failed = head.failed
                for accepted in head.accepted:
                    self._accept(accepted)
            elif type(head) is visit.Refused and head.final:
                self.refused = head.reason
            elif type(head) is visit.Refused:
                lost = self._lose(now) or lost
        return lost

    def _lose(self, now: float) -> bool:
        lost, self.address = bool(self.address), ""
        self._dealer.disconnect()
        self._retry_at = now + RETRY_S
        return lost

    def begin(self, first: int, *, ordered: bool) -> None:
        """A run begins; a sink of its own has one."""
        assert first == 0, "one pipeline, one run, one output"
        self._ordered = ordered

    def end(self) -> None:
        """The sink may go."""
        self._dealer.send(codec.simple(wire.Signal("bye")))

    def put(self, base: int, offset: int, unheard: Unheard) -> None:
        """A failure that no worker can tell of."""
        part = Part(base, offset, 1, failed=False, payload=self._render(unheard))
        self._dealer.send(codec.yielded(self._pipeline, [part]))

    def close(self) -> None:
        """Let go of the sink."""
        self._dealer.close()
