"""The sink as a process of its own: it takes what a pipeline's workers send, writes it once, and says so.

It opens no result: what comes are lines that the workers have made. What it has written is with the system before its
ventilator hears of it, so nothing is lost when it is killed: started anew with the same output, it says what is there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from time import monotonic
from typing import Protocol, TypeVar

import zmq

from zmqtasks import codec, wire
from zmqtasks.blobs import stream_of
from zmqtasks.core.gather import Gather, Piece
from zmqtasks.core.parcels import BASE_MASK
from zmqtasks.core.ranges import Ranges
from zmqtasks.keys import KeyStore
from zmqtasks.messages import Accepted, Part
from zmqtasks.nodes.door import Door, Member
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.mailbox import Mailbox
from zmqtasks.nodes.sockets import Sockets, endpoint
from zmqtasks.stream.batch import Batch, Unit, pack, unpack
from zmqtasks.stream.present import Present
from zmqtasks.visit import Collect, Collecting, Had, Written

MAIL_MAX = 256  # messages of outcomes a turn
HAD_RANGES = 8192  # of what it has, in a message
HAD_PAGES = 16  # 512 KiB

_log = logging.getLogger("zmqtasks")


T = TypeVar("T")


class Writes(Protocol):
    """Where results go, and what is there already: see `zmqtasks.stream.results.Output`."""

    path: str
    present: Present
    failed: int
    disorder: str

    def write(self, lines: bytes) -> None:
        """Append whole lines."""


class SinkNode:
    """Serves one pipeline, until that has ended."""

    def __init__(self, address: str, store: KeyStore, output: Writes) -> None:
        self.failed = self.done = 0  # inputs, since it was started
        self._output = output
        self._have = Ranges(output.present.ranges())
        self._loop = Loop()
        try:
            self._sockets = Sockets(address, store)
        except BaseException:
            self._loop.close()
            raise
        self.address = self._sockets.address
        self._outcomes = Mailbox(self._sockets.bind(zmq.PULL, self._sockets.beside("outcomes")))
        self._loop.watch(self._outcomes)
        self._door = Door(self._sockets, self._loop, self._came, self._said, self._left)
        self._pipeline = ""  # which one; set when its ventilator comes
        self._member: Member | None = None  # that ventilator, while it is here
        self._gather: Gather | None = None
        self._bases: dict[
            int, int
        ] = {}  # of outcomes that wait for their turn: their batch's, by first number
        self._written: list[Accepted] = []  # what the ventilator is to hear
        self._marks: list[bytes] = []  # which of each are failures
        self._stops = 0
        self.is_over = self.is_complete = False  # the pipeline has ended; with all of its inputs

    def stop(self) -> None:
        """From a signal handler: end; the ventilator waits for another sink."""
        self._stops += 1
        self._loop.wake()

    def run(self) -> None:
        """Serve until the pipeline has ended, or until stopped."""
        try:
            deadline = 0.0
            while not (self.is_over or self._stops):
                self._loop.asleep = True
                awake = self._door.has_mail() or self._outcomes.has_mail()
                ready = self._loop.wait(0.0 if awake else deadline)
                deadline = self._door.look(ready, monotonic())
                for _ in range(MAIL_MAX):
                    if (mail := self._outcomes.receive()) is None:
                        break
                    if mail.message is None or type(mail.message.head) is not wire.Yield:
                        continue
                    if self._sockets.admits(mail.frame):
                        self._yielded(mail.message)
                self._tell()
        finally:
            self._door.close()
            self._sockets.close()
            self._loop.close()

    # ---- the ventilator ------------------------------------------------------------------------------------------

    def _came(self, member: Member, _now: float) -> None:
        if member.about.role != "client" or member.user.startswith("observer:"):
            raise PermissionError("this is a sink: it is there for a ventilator, with a client's key")

    def _said(self, member: Member, message: wire.Arrived, _now: float) -> None:
        head = message.head
        if type(head) is Collect:
            self._collect(member, head)
        elif member is not self._member:
            raise PermissionError("this sink serves another pipeline")
        elif type(head) is wire.Yield:
            self._yielded(message)
        elif type(head) is wire.Signal:
            self.is_over, self.is_complete = True, head.name == "bye"

    def _collect(self, member: Member, about: Collect) -> None:
        if self._pipeline and about.pipeline != self._pipeline:
            raise PermissionError(
                "this sink serves another pipeline: started anew with --resume, it goes on for this one"
            )
        if about.ordered and self._output.disorder:
            raise PermissionError(self._output.disorder)
        if not self._pipeline:
            self._pipeline = about.pipeline
            self._gather = Gather(ordered=about.ordered, known=self._have)
        self._member = member
        for ranges in _some(self._have, HAD_RANGES):
            self._door.tell(member.number, Had(ranges, []))
        for pages in _some(self._output.present.pages(), HAD_PAGES):
            self._door.tell(member.number, Had([], pages))
        failed = self._output.failed + self.failed
        self._door.tell(member.number, Collecting(endpoint(self._outcomes.socket), self._output.path, failed))
        _log.info("a ventilator is here: %s", member.name)

    def _left(self, member: Member, reason: str, _now: float) -> None:
        if member is self._member:
            self._member = None
            _log.warning("the ventilator is gone: %s", reason)

    # ---- outcomes ------------------------------------------------------------------------------------------------

    def _yielded(self, message: wire.Arrived) -> None:
        if message.head.pipeline != self._pipeline or self._gather is None:
            return
        broken: list[Part] = []
        for part in codec.yielded_parts(message):
            base = part.ordinal & BASE_MASK
            if part.failed:  # what no line could be made of: the function cannot be run there
                broken.append(part)
                continue
            new, out = self._gather.take(base + part.offset, part.items, part.payload, failed=False)
            for piece in new:
                self._bases[piece.first] = base
            for piece in out:
                self._write(piece)
        if broken and self._member is not None:
            self._door.mail(self._member.number, codec.yielded(self._pipeline, broken))

    def _write(self, piece: Piece) -> None:
        batch: Batch = unpack(stream_of(piece.payload))
        places = range(piece.skip, piece.skip + piece.items)
        self._output.write(b"".join(batch.outs[places.start : places.stop]))
        self._have.add(piece.first, piece.first + piece.items)
        failures = [place in batch.failed for place in places]
        self.done += piece.items
        self.failed += sum(failures)
        base = self._bases.pop(piece.first)
        self._written.append(Accepted(base, piece.first - base, piece.items))
        self._marks.append(pack([Unit(b"", b"", failed) for failed in failures]))

    def _tell(self) -> None:
        """The ventilator hears what is written; while it is not here, it will hear it when it comes."""
        if self._written and self._member is not None:
            self._door.tell(self._member.number, Written(self._written, self._marks))
        self._written, self._marks = [], []


def _some(all_: Iterable[T], count: int) -> Iterator[list[T]]:
    """Yield so many of them at a time."""
    rest = iter(all_)
    while some := list(islice(rest, count)):
        yield some
