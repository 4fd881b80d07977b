"""The two places where a pipeline's outcomes can go: into this process, or to a sink that is a process of its own."""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple, Protocol

import zmq

from zmqtasks import codec, wire
from zmqtasks.core.gather import Gather
from zmqtasks.core.parcels import BASE_MASK
from zmqtasks.core.ranges import Ranges
from zmqtasks.errors import ConnectionTimeout, InputChanged
from zmqtasks.keys import Key
from zmqtasks.messages import Accepted, Feed, Part
from zmqtasks.nodes.dealer import Dealer, reachable
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.mailbox import Mailbox
from zmqtasks.nodes.sockets import Sockets, endpoint
from zmqtasks.nodes.window import Unheard, Window
from zmqtasks.stream.batch import unpack
from zmqtasks.stream.present import Present
from zmqtasks.visit import PROTOCOL, Collect, Collecting, Enter, Had, Refused, Written

MAIL_MAX = 256  # messages of outcomes a turn
RETRY_S = 0.5  # between two tries to reach a sink
KNOWN = b""  # the payload of what the sink has had before: nobody asks for it

_log = logging.getLogger("zmqtasks")

Accept = Callable[[Accepted], None]


class Intake(Protocol):
    """Where outcomes go."""

    address: str  # where workers find it; "" while nobody is there
    key: str  # its public key, "" if it is the ventilator's own
    is_back: bool  # it has come, and says what it knows: the batches that are on have to be looked through
    lost_at: float  # since when it has been gone, in seconds of the clock; infinite while it is there

    def has_mail(self) -> bool:
        """Whether something has come; asked before each sleep."""

    def look(self, ready: list[int], now: float) -> bool:
        """Take in what has come; whether outcomes that were on their way are lost."""

    def begin(self, first: int, *, ordered: bool) -> None:
        """A run begins, its numbers from `first` on."""

    def fed(self, batch: Feed) -> None:
        """That batch is on: what is known of it is accepted at once."""

    def end(self, *, complete: bool) -> None:
        """Nobody wants any more of the run's outcomes; it is `complete`, or was broken off."""

    def put(self, base: int, offset: int, unheard: Unheard) -> None:
        """A failure that no worker can tell of."""

    def close(self) -> None:
        """It is over."""


class OwnIntake:
    """The sink is here: whoever iterates the run takes what comes out of `window`."""

    key = ""
    is_back = False
    lost_at = inf

    def __init__(self, pipeline: str, sockets: Sockets, loop: Loop, window: Window, accept: Accept) -> None:
        self._pipeline = pipeline
        self._gathering = Gathering(window, accept)
        self._sockets = sockets
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
            if (
                message is None
                or type(message.head) is not wire.Yield
                or not self._sockets.admits(mail.frame)
            ):
                continue
            if message.head.pipeline == self._pipeline:
                try:
                    parts: list[Part] = codec.yielded_parts(message)
                except Exception:  # noqa: BLE001 - whatever somebody with a key makes up
                    _log.exception("outcomes make no sense: they are not heard")
                    continue
                for part in parts:
                    self._gathering.take(part.ordinal & BASE_MASK, part)
        return False

    def begin(self, first: int, *, ordered: bool) -> None:
        """A run begins."""
        self._gathering.begin(first, ordered=ordered)

    def fed(self, batch: Feed) -> None:
        """Nothing is known of it."""

    def end(self, *, complete: bool) -> None:  # noqa: ARG002 - whoever iterates the run knows
        """What still comes is not heard."""
        self._gathering.end()

    def put(self, base: int, offset: int, unheard: Unheard) -> None:
        """A failure that no worker can tell of."""
        self._gathering.take(base, Part(base, offset, 1, failed=True, payload=unheard))

    def close(self) -> None:
        """The socket is closed with the others."""


class Far(NamedTuple):
    """A sink that is a process of its own: where it is, and as whom to go there.

    `render` makes of a failure what it is to write, `items` of a batch's payload its inputs.
    """

    address: str
    key: Key | None
    render: Callable[[Unheard], bytes]
    items: Callable[[Any], Sequence[Any]]


class FarIntake:
    """The sink is a process of its own: it says what it has written.

    When it is lost, so is what was on the way to it; when it is back it says what it has. `present`: what it has found
    in its output, once it `has_answered`. `failed_before`: how many of the failures there have come in no `Written`.
    """

    address = ""
    is_back = False
    lost_at = inf

    def __init__(
        self,
        pipeline: str,
        sink: Far,
        loop: Loop,
        window: Window,
        accept: Accept,
    ) -> None:
        self.key = sink.key.server if sink.key is not None else ""
        self.present = Present("")
        self.has_answered = threading.Event()
        self.failed_before = self._failed = 0
        self._known = Ranges()  # numbers that it has had before
        self._had = Had([], [])  # as far as the sink has come to say it
        self._pipeline = pipeline
        self._window = window
        self._gathering = Gathering(window, accept)
        self._render, self._items = sink.render, sink.items
        self._dealer = Dealer(loop, sink.address, sink.key)
        self._dealer.connect()
        self._ordered: bool | None = None  # None: no run has begun
        self._retry_at: float | None = None
        self._was_lost = self._ended = False

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
        if news == "up":
            self._greet()
        elif news == "down":
            lost = self._lose(now)
        if self._dealer.refused:
            self._fail(self._dealer.refused)
        while self._dealer.has_mail() and (mail := self._dealer.mailbox.receive()) is not None:
            if mail.message is not None and self._hear(mail.message):
                lost = self._lose(now) or lost
        return lost

    def _greet(self) -> None:
        """Both is needed for that, a connection and a run."""
        if self._ordered is None or not self._dealer.is_up:
            return
        self._had = Had([], [])
        about = Enter(
            "client", "", PROTOCOL, "", session=self._pipeline, host=platform.node(), pid=os.getpid()
        )
        self._dealer.send(codec.simple(about))
        self._dealer.send(codec.simple(Collect(self._pipeline, self._ordered)))

    def _hear(self, message: wire.Arrived) -> bool:
        """What the sink says; whether it has sent this ventilator away for now."""
        head = message.head
        if type(head) is Had:
            self._had.ranges += head.ranges
            self._had.pages += head.pages
        elif type(head) is Collecting:
            self._is_there(head)
        elif type(head) is Written:
            for accepted, payload in zip(head.accepted, head.payloads, strict=True):
                self._failed += len(unpack(payload).failed)
                part = Part(accepted.base, accepted.offset, accepted.items, failed=False, payload=payload)
                self._gathering.take(accepted.base, part)
        elif type(head) is wire.Yield:  # what the sink cannot write: no worker could run the function
            for part in codec.yielded_parts(message):
                self._gathering.take(part.ordinal & BASE_MASK, part)
        elif type(head) is Refused and head.final:
            self._fail(head.reason)
        return type(head) is Refused and not head.final

    def _is_there(self, about: Collecting) -> None:
        known = Ranges(self._had.ranges)
        for first, limit in (*self._known, *self._gathering.taken):
            if known.within(first, limit) != [(first, limit)]:
                self._fail(
                    "it has come back without results that it had: it needs the same output, and --resume"
                )
                return
        self.present.fill(about.output, self._had.pages)
        self._known, self._had = known, Had([], [])
        self.failed_before = about.failed - self._failed
        self.address, self.is_back = reachable(about.address, self._dealer.address), True
        self.lost_at = inf
        self.has_answered.set()
        if self._was_lost:
            _log.info("the sink at %s is back", self._dealer.address)

    def _fail(self, reason: str) -> None:
        self._window.fail(ConnectionTimeout(f"the sink at {self._dealer.address}: {reason}"))

    def _lose(self, now: float) -> bool:
        lost, self.address = bool(self.address), ""
        if lost:
            self.lost_at = now
        if lost and not self._ended:
            self._was_lost = True
            _log.warning("the sink at %s is gone: waiting for it", self._dealer.address)
        self._dealer.disconnect()
        self._retry_at = now + RETRY_S
        return lost

    def begin(self, first: int, *, ordered: bool) -> None:
        """A run begins; a sink of its own has one."""
        self._ordered = ordered
        self._gathering.begin(first, ordered=False)
        self._greet()

    def fed(self, batch: Feed) -> None:
        """The sink may have had some of it: of these inputs, or it is another run's output."""
        base = batch.base
        for first, limit in self._known.within(base, base + batch.count):
            try:
                for number, item in enumerate(self._items(batch.payload)[first - base : limit - base], first):
                    self.present.has(number, item)
            except InputChanged as error:
                self._window.fail(error)
                return
            part = Part(base, first - base, limit - first, failed=False, payload=KNOWN)
            self._gathering.take(base, part)

    def end(self, *, complete: bool) -> None:
        """The sink may go."""
        self._ended = True
        self._gathering.end()
        self._dealer.send(codec.simple(wire.Signal("bye" if complete else "broken off")))

    def put(self, base: int, offset: int, unheard: Unheard) -> None:
        """A failure that no worker can tell of."""
        part = Part(base, offset, 1, failed=False, payload=self._render(unheard))
        self._dealer.send(codec.yielded(self._pipeline, [part]))

    def close(self) -> None:
        """Let go of the sink."""
        self._dealer.close()


class Gathering:
    """The outcomes of the run that is on: what is new is accepted, and what is its turn goes into the window."""

    def __init__(self, window: Window, accept: Accept) -> None:
        self._window = window
        self._accept = accept
        self._gather: Gather | None = None

    @property
    def taken(self) -> Ranges:
        """The numbers of the run that have an outcome."""
        return self._gather.have if self._gather is not None else Ranges()

    def begin(self, first: int, *, ordered: bool) -> None:
        """A run begins."""
        self._gather = Gather(first, ordered=ordered)

    def end(self) -> None:
        """No run is on: what comes is not heard."""
        self._gather = None

    def take(self, base: int, part: Part) -> None:
        """Outcomes of the batch `base`."""
        if self._gather is None:
            return
        new, out = self._gather.take(base + part.offset, part.items, part.payload, failed=part.failed)
        for piece in new:
            self._accept(Accepted(base, piece.first - base, piece.items))
        if new:
            self._window.accepted(new, out)
