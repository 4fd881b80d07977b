"""The ventilator: fans inputs out through a PUSH socket, and takes the outcomes in through the sink's PULL socket.

One I/O thread owns the sockets and the machines. Whoever reads the inputs waits in `wait_for_room` and feeds batches;
whoever wants the outcomes takes them with `take`, and gives back with `release` what they held of the window.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from time import monotonic
from typing import Any, NamedTuple

import zmq

from zmqtasks import codec, visit, wire
from zmqtasks.core.effects import End, Send, Settle
from zmqtasks.core.gather import Gather, Piece
from zmqtasks.core.parcels import BASE_MASK
from zmqtasks.core.stream import Stream
from zmqtasks.errors import ZmqTasksError
from zmqtasks.keys import KeyStore
from zmqtasks.messages import Accepted, Feed, Lost, Part, Slots, Task
from zmqtasks.nodes.door import Door, Member
from zmqtasks.nodes.household import Plan
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.mailbox import Mailbox
from zmqtasks.nodes.own import OwnWorker
from zmqtasks.nodes.sockets import SILENCE_S, Sockets, endpoint
from zmqtasks.options import Options

BEAT_S = 1.0  # how often a worker says that it is there
PIPE_HWM = 2  # batches that wait for a worker here; so many more wait there
PIPE_BYTES = 256 << 10  # what the kernel may hold of them
MAIL_MAX = 256  # messages of outcomes a turn
RETRY_S = 0.05  # a pipe that was full is tried again, whatever it says

_log = logging.getLogger("zmqtasks")


class Unheard(NamedTuple):
    """The payload of a failure that no child has told: its state and reason, and where its input is."""

    state: int
    reason: Any
    task: Task


class Target(NamedTuple):
    """What is run: the pickled function, and what it is called."""

    name: str
    function: bytes
    options: Options


class VentilatorNode:
    """One pipeline. `window`: inputs that may be on their way, and outcomes that nobody has taken, at a time."""

    def __init__(
        self, address: str, store: KeyStore, target: Target, python: str, *, window: int, window_bytes: int
    ) -> None:
        self.pipeline = secrets.token_hex(8)
        self.error: BaseException | None = None  # why it cannot go on
        self._target = target
        self._python = python
        self._window, self._window_bytes = window, window_bytes
        self._loop = Loop()
        try:
            self._sockets = Sockets(address, store)
        except BaseException:
            self._loop.close()
            raise
        sockets = self._sockets
        self.address = sockets.address
        self._pipe = Mailbox(
            sockets.bind(zmq.PUSH, sockets.beside("tasks"), hwm=PIPE_HWM, buffer_bytes=PIPE_BYTES)
        )
        self._outcomes = Mailbox(sockets.bind(zmq.PULL, sockets.beside("outcomes")))
        self._loop.watch(self._pipe)
        self._loop.watch(self._outcomes)
        self._door = Door(sockets, self._loop, self._came, self._said, self._left)
        self._stream = Stream(target.options, silence_s=SILENCE_S)
        self._gather = Gather()
        self._own: OwnWorker | None = None
        self._words: deque[Any] = (
            deque()
        )  # from other threads: batches, and what is to be done with the stream
        self._sizes: dict[int, list[int]] = {}  # of batches by base: items without an outcome, bytes
        self._flow = threading.Condition()  # guards what follows
        self._wanted = 0  # batches that the stream would like to have
        self._items = self._bytes = 0  # within the window
        self._results_bytes = 0  # of the bytes, those of outcomes that nobody has taken
        self._out: deque[Piece] = deque()
        self._fed_all = False
        self._over = True
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="zmqtasks-ventilator", daemon=True)

    def start(self, plan: Plan | None, *, output: int | None = None, folder: str = "") -> None:
        """Begin to serve; with `plan`, a worker on this machine too."""
        if plan is not None:
            address = self.address.replace("tcp://0.0.0.0:", "tcp://127.0.0.1:")
            self._own = OwnWorker(self._loop, address, plan, output=output, folder=folder)
        self._thread.start()

    # ---- for whoever reads the inputs ----------------------------------------------------------------------------

    def wait_for_room(self) -> int:
        """Wait until another batch may be fed: how many inputs it should have; 0 if nobody wants any."""
        with self._flow:
            while not self._closing and not self._over and self.error is None:
                if self._wanted > 0 and self._items < self._window and self._bytes < self._window_bytes:
                    return min(self._stream.batch_items, self._window - self._items)
                self._flow.wait()
            return 0

    def feed(self, base: int, count: int, payload: Any) -> None:
        """A batch of `count` inputs, numbered from `base` on; `payload` is a span's."""
        with self._flow:
            self._items += count
            self._bytes += len(payload)
            self._wanted -= 1
        self._words.append(Feed(base, count, payload))
        self._wake()

    def fed_all(self) -> None:
        """There are no more inputs."""
        self._words.append("fed")
        self._wake()

    # ---- for whoever takes the outcomes --------------------------------------------------------------------------

    def begin(self, first: int, *, ordered: bool) -> None:
        """A new run: outcomes of numbers from `first` on."""
        with self._flow:
            self._fed_all = self._over = False
        self._words.append(Gather(first, ordered=ordered))
        self._wake()

    def take(self, timeout: float | None = None) -> list[Piece]:
        """Outcomes, as soon as there are any; none when the run is over, or `timeout` is."""
        with self._flow:
            if not self._flow.wait_for(lambda: self._out or self._over or self.error is not None, timeout):
                return []
            out = list(self._out)
            self._out.clear()
            if not out and self.error is not None:
                raise self.error
            return out

    def release(self, piece: Piece) -> None:
        """Whoever has taken it is through with it."""
        with self._flow:
            self._items -= piece.items
            self._bytes -= _nbytes(piece)
            full = self._results_bytes >= self._window_bytes
            self._results_bytes -= _nbytes(piece)
            self._flow.notify_all()
        if full:
            self._wake()

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, and nothing of it can be taken any more."""
        return self._over and not self._out

    def halt(self) -> None:
        """Hand out nothing more; the run is over when what has begun has ended."""
        self._words.append("halt")
        self._wake()

    def drop(self) -> None:
        """Nobody wants the outcomes of this run any more. What has begun ends unheard."""
        with self._flow:
            self._over = True
            self._flow.notify_all()
        done = threading.Event()
        self._words.append(done)
        self._wake()
        while self._thread.is_alive() and not done.wait(BEAT_S):
            pass

    @property
    def workers(self) -> dict[str, int]:
        """Who is here, by name: how many inputs he runs at a time."""
        return {member.name: member.about.slots for member in list(self._door.members.values())}

    def close(self) -> None:
        """Send the workers away, and end."""
        with self._flow:
            self._closing = self._over = True
            self._flow.notify_all()
        self._loop.wake()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _wake(self) -> None:
        if self._loop.asleep:
            self._loop.wake()

    # ---- the I/O thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            _log.exception("the pipeline has ended")
            self._fail(ZmqTasksError(f"the pipeline has ended: {error}"))
        finally:
            if self._own is not None:
                self._own.close()
            self._door.close()
            self._sockets.close()
            self._loop.close()

    def _serve(self) -> None:
        loop, deadline = self._loop, 0.0
        while not self._closing:
            loop.asleep = True
            awake = self._words or self._door.has_mail() or self._outcomes.has_mail()
            ready = loop.wait(0.0 if awake else deadline)
            now = monotonic()
            if self._own is not None and self._own.fileno() in ready:
                self._own.ended()
                if self._own.is_broken:
                    self._fail(ZmqTasksError("no worker comes up: see what it wrote to standard error"))
            again = self._door.look(ready, now)
            for _ in range(MAIL_MAX):
                if (mail := self._outcomes.receive()) is None:
                    break
                if mail.message is not None and type(mail.message.head) is wire.Yield:
                    self._yielded(mail.message, now)
            self._hear_words(now)
            deadline = min(again, self._turn(now))
        for number in list(self._door.members):
            self._door.tell(number, wire.Signal("bye"))

    def _hear_words(self, now: float) -> None:
        while self._words:
            word = self._words.popleft()
            if type(word) is Feed:
                self._sizes[word.base] = [word.count, len(word.payload)]
                self._stream.receive(0, word, now)
            elif type(word) is Gather:
                self._gather = word
            elif word == "halt":
                self._stream.halt()
            elif type(word) is threading.Event:
                self._drop()
                word.set()
            else:
                self._fed_all = True

    def _drop(self) -> None:
        self._stream.drop()
        self._sizes.clear()
        for number in list(self._door.members):
            self._door.tell(number, wire.Signal("recall"))
        with self._flow:
            self._out.clear()
            self._items = self._bytes = self._results_bytes = 0

    def _turn(self, now: float) -> float:
        stream, effect = self._stream, None
        while effects := stream.turn(now):
            for effect in effects:
                if isinstance(effect, Send):
                    self._door.tell(effect.peer, wire.Signal("recall"))
                elif isinstance(effect, Settle):
                    for task, reason in zip(effect.tasks, effect.payloads, strict=True):
                        unheard = Unheard(effect.state, reason, task)
                        self._accept(task.id - task.offset, task.offset, 1, unheard, now, failed=True)
                elif isinstance(effect, End) and (member := self._door.members.get(effect.peer)) is not None:
                    self._door.turn_out(member, "nothing was heard of it for too long", now, final=False)
        full = self._push(now)
        self._look_round()
        times = [stream.next_deadline(), now + RETRY_S if full else None]
        return min([time for time in times if time is not None], default=now + BEAT_S)

    def _push(self, now: float) -> bool:
        """Fill the pipe; whether it would take no more."""
        stream = self._stream
        # Outcomes that nobody takes must not pile up: then only as much runs as keeps the first in line coming.
        while (self._results_bytes < self._window_bytes or not stream.running) and (run := stream.next(now)):
            if not self._pipe.send(codec.run(run, None, [], afar=True)):
                stream.refused(run)
                return True
        return False

    def _look_round(self) -> None:
        """What whoever waits has to know."""
        stream = self._stream
        with self._flow:
            self._wanted = stream.wanted - sum(1 for word in self._words if type(word) is Feed)
            if not self._over and not self._words:
                done = self._fed_all and not stream.unsettled
                self._over = done or (stream.is_halted and not stream.running)
            if self._over or self._wanted > 0:
                self._flow.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._flow:
            self.error = self.error or error
            self._flow.notify_all()

    # ---- workers -------------------------------------------------------------------------------------------------

    def _came(self, member: Member, _now: float) -> None:
        if member.about.role != "worker":
            raise PermissionError("this is a pipeline: it has work for workers, and answers nobody else")
        if member.about.python != self._python:
            raise PermissionError(
                f"the function was pickled by Python {self._python}, and this worker has {member.about.python}"
            )
        target = self._target
        sockets = (endpoint(self._pipe.socket), endpoint(self._outcomes.socket))
        self._door.tell(
            member.number, visit.Admit(self.pipeline, *sockets, "", target.name, target.function, BEAT_S)
        )

    def _said(self, member: Member, message: wire.Arrived, now: float) -> None:
        said = codec.core_message(message)
        if type(said) is Slots and member.number not in self._stream.hands:
            _log.info("worker %s has joined: slots %d", member.name, said.slots)
        if said is not None:
            self._stream.receive(member.number, said, now)

    def _left(self, member: Member, reason: str, now: float) -> None:
        self._stream.receive(member.number, Lost(reason), now)
        _log.info("worker %s is gone: %s", member.name, reason)

    # ---- the sink ------------------------------------------------------------------------------------------------

    def _yielded(self, message: wire.Arrived, now: float) -> None:
        if message.head.pipeline != self.pipeline:
            return
        parts: list[Part] = codec.yielded_parts(message)
        for part in parts:
            base = part.ordinal & BASE_MASK
            self._accept(base, part.offset, part.items, part.payload, now, failed=part.failed)

    def _accept(self, base: int, offset: int, items: int, payload: Any, now: float, *, failed: bool) -> None:
        new, out = self._gather.take(base + offset, items, payload, failed=failed)
        if not new:
            return
        freed, nbytes = 0, sum([_nbytes(piece) for piece in new])
        for piece in new:
            self._stream.receive(0, Accepted(base, piece.first - base, piece.items), now)
            if (size := self._sizes.get(base)) is not None:
                size[0] -= piece.items
                if not size[0]:
                    freed += self._sizes.pop(base)[1]
        with self._flow:
            self._bytes += nbytes - freed
            self._results_bytes += nbytes
            self._out.extend(out)
            if out:
                self._flow.notify_all()


def _nbytes(piece: Piece) -> int:
    """What it counts in the window: the payload that it shares with others counts once."""
    return 0 if piece.skip or isinstance(piece.payload, Unheard) else len(piece.payload)
