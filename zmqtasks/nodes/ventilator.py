"""The ventilator: fans inputs out through a PUSH socket, and hears of the outcomes from the sink, here or elsewhere.

One I/O thread owns the sockets and the machines; other threads meet it in the `Window`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import threading
import weakref
from collections import deque
from math import inf
from time import monotonic
from typing import Any, NamedTuple

import zmq

from zmqtasks import codec, visit, wire
from zmqtasks.core.effects import End, Send, Settle
from zmqtasks.core.gather import Piece
from zmqtasks.core.stream import FN, Stream
from zmqtasks.errors import ForkedClient, ZmqTasksError
from zmqtasks.keys import KeyStore
from zmqtasks.messages import FAILED, Accepted, Feed, Lost, Slots, Task
from zmqtasks.nodes.door import Door, Member
from zmqtasks.nodes.household import Plan
from zmqtasks.nodes.intake import Far, FarIntake, Intake, OwnIntake
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.mailbox import Mailbox
from zmqtasks.nodes.own import OwnWorker
from zmqtasks.nodes.sockets import BEATS, SILENCE_S, Sockets, endpoint
from zmqtasks.nodes.window import Unheard, Window
from zmqtasks.options import Options
from zmqtasks.stream.present import Present

SINK_PATIENCE_S = 3.0  # what a sink that is gone may take to come back when the run is to end
LOOK_S = 1.0  # how often it is looked whether all is well where nothing is due
PIPE_HWM = 2  # batches that wait for a worker here; so many more wait there
PIPE_BYTES = 256 << 10  # what the kernel may hold of them
RETRY_S = 0.05  # a pipe that was full is tried again, whatever it says

_log = logging.getLogger("zmqtasks")


class Target(NamedTuple):
    """What is run: the pickled function, and what it is called."""

    name: str
    function: bytes
    options: Options


class VentilatorNode:
    """One pipeline. `sink`: what makes the place where outcomes go, given the parts of this that it needs."""

    def __init__(
        self,
        address: str,
        store: KeyStore,
        target: Target,
        python: str,
        window: Window,
        sink: Far | None = None,
    ) -> None:
        self.window = window
        self.forked = False  # this process has it from its parent: nothing of it is its own
        self._keys = str(store.folder)
        self._target = target
        self._python = python
        self._pipeline = secrets.token_hex(8)
        self._loop = Loop()
        with contextlib.ExitStack() as undo:
            undo.callback(self._loop.close)
            self._sockets = sockets = Sockets(address, store)
            undo.callback(sockets.close, 0)
            self.address = sockets.address
            self._pipe = Mailbox(
                sockets.bind(zmq.PUSH, sockets.beside("tasks"), hwm=PIPE_HWM, buffer_bytes=PIPE_BYTES)
            )
            self._intake: Intake = (
                OwnIntake(self._pipeline, sockets, self._loop, window, self._accept)
                if sink is None
                else FarIntake(self._pipeline, sink, self._loop, window, self._accept)
            )
            undo.pop_all()
        self._loop.watch(self._pipe)
        self._door = Door(sockets, self._loop, self._came, self._said, self._left)
        self._stream = Stream(target.options, silence_s=SILENCE_S)
        self._outside: set[int] = set()  # workers that wait until it is known where outcomes go
        self._own: OwnWorker | None = None
        self._own_number = 0  # what it is here: nobody has to hear of its coming and going
        self._words: deque[Any] = (
            deque()
        )  # from other threads: batches, and what is to be done with the stream
        self._dropped: threading.Event | None = None  # set when the run before is forgotten
        self._fed_all = self._is_whole = False  # nothing more comes; and that was all
        self._halted_at = -inf  # when this run was
        self._gave_up = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="zmqtasks-ventilator", daemon=True)

    def start(self, plan: Plan | None, *, output: int | None = None, folder: str = "") -> None:
        """Begin to serve; with `plan`, a worker on this machine too, whose tasks print to `output`."""
        if plan is not None:
            address = self.address.replace("tcp://0.0.0.0:", "tcp://127.0.0.1:")
            self._own = OwnWorker(self._loop, address, plan, keys=self._keys, output=output, folder=folder)
        _nodes.add(self)
        self._thread.start()

    # ---- any thread ----------------------------------------------------------------------------------------------

    def wait_for_room(self) -> int:
        """Wait until another batch may be fed: how many inputs it should have; 0 if nobody wants any."""
        return self.window.wait_for_room(lambda: self._stream.batch_items)

    def feed(self, base: int, count: int, payload: Any) -> None:
        """A batch of `count` inputs, numbered from `base` on; `payload` is a span's."""
        self.window.fed(count, len(payload))
        self._say(Feed(base, count, payload))

    def feed_failure(self, number: int, error: Exception) -> None:
        """The input of that number cannot be sent: `error` is its outcome."""
        self.window.fed(1, 0)
        self._say(Unheard(FAILED, error, Task(number, FN, b"")))

    def fed_all(self, *, complete: bool = True) -> None:
        """There are no more inputs; not `complete`: of those that will be fed."""
        self._say("fed" if complete else "broken off")

    def begin(self, first: int, *, ordered: bool) -> None:
        """A new run: outcomes of numbers from `first` on."""
        if (dropped := self._dropped) is not None:
            self._wait_for(dropped)
        self._say((first, ordered))  # before the window opens: the end of the run before closes nothing
        self.window.begin(first)

    def release(self, piece: Piece) -> None:
        """Whoever has taken it is through with it."""
        if self.window.release(piece):
            self._wake()

    def halt(self) -> None:
        """Hand out nothing more; the run is over when what has begun has ended."""
        self._say("halt")

    def drop(self) -> None:
        """Nobody wants the outcomes of this run any more. What has begun ends unheard."""
        self.window.end()
        self._dropped = done = threading.Event()
        self._say(done)
        if threading.current_thread() is not self._thread:  # garbage is collected in any thread
            self._wait_for(done)

    @property
    def workers(self) -> dict[str, int]:
        """Who is here, by name: how many inputs he runs at a time."""
        return {member.name: member.about.slots for member in list(self._door.members.values())}

    def wait_for_sink(self) -> Present | None:
        """What a sink elsewhere has found in its output, once it answers; None if there is no such sink."""
        if not isinstance(self._intake, FarIntake):
            return None
        self._wait_for(self._intake.has_answered)
        return self._intake.present

    @property
    def failed_before(self) -> int:
        """How many failures a sink elsewhere has in its output that nobody has heard of."""
        return self._intake.failed_before if isinstance(self._intake, FarIntake) else 0

    @property
    def has_sink(self) -> bool:
        """Whether it is known where outcomes go."""
        return bool(self._intake.address)

    def close(self) -> None:
        """Send the workers away, and end."""
        if self.forked:
            return
        self._closing = True
        self.window.end()
        self._loop.wake()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def raise_if_forked(self) -> None:
        """A forked process has none of the threads."""
        if self.forked:
            raise ForkedClient(
                "this pipeline belongs to the process that this one was forked from: make one here"
            )

    def leave(self) -> None:
        """Let go of everything: in this process, a forked one, nothing of it is its own."""
        self.forked = True
        if self._own is not None:
            self._own.leave()

    def _wait_for(self, done: threading.Event) -> None:
        while self._thread.is_alive() and not done.wait(LOOK_S):
            pass

    def _say(self, word: Any) -> None:
        self._words.append(word)
        self._wake()

    def _wake(self) -> None:
        if self._loop.asleep:
            self._loop.wake()

    # ---- the I/O thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            _log.exception("the pipeline has ended")
            self.window.fail(ZmqTasksError(f"the pipeline has ended: {error}"))
        finally:
            self._intake.close()
            if self._own is not None:
                self._own.close()
            self._door.close()
            self._sockets.close()
            self._loop.close()

    def _serve(self) -> None:
        loop, deadline = self._loop, 0.0
        while not self._closing:
            loop.asleep = True
            awake = self._words or self._door.has_mail() or self._intake.has_mail()
            ready = loop.wait(0.0 if awake else deadline)
            now = monotonic()
            if self._own is not None and self._own.fileno() in ready:
                self._own.ended()
                if self._own.is_broken:
                    self.window.fail(ZmqTasksError("no worker comes up: see what it wrote to standard error"))
                else:
                    _log.warning("the worker of this machine has died: here is another one")
            if self._pipe.fileno() in ready:
                self._pipe.takes_mail()  # or it would signal for ever what it was not asked about
            again = self._door.look(ready, now)
            if self._intake.look(ready, now):  # what the workers have done may be lost: they begin anew
                for member in list(self._door.members.values()):
                    self._door.turn_out(member, "the sink is gone", now, final=False)
            if self._intake.is_back:
                self._intake.is_back = False
                for batch in self._stream.batches:
                    self._intake.fed(batch)
            if self._outside and self._intake.address:
                self._admit()
            self._hear_words(now)
            deadline = min(again, self._turn(now))
        for number in list(self._door.members):
            self._door.tell(number, wire.Signal("bye"))

    def _hear_words(self, now: float) -> None:
        while self._words:
            word = self._words.popleft()
            if type(word) is Feed:
                self._stream.receive(0, word, now)
                self._intake.fed(word)
            elif type(word) is Unheard:
                self._intake.put(word.task.id, 0, word)
            elif type(word) is tuple:
                self._fed_all = self._is_whole = False
                self._intake.begin(word[0], ordered=word[1])
            elif word == "halt":
                self._stream.halt()
                self._halted_at = now
            elif word in ("fed", "broken off"):
                self._fed_all, self._is_whole = True, word == "fed"
            else:
                self._drop()
                word.set()

    def _drop(self) -> None:
        self._intake.end(complete=self._is_whole and not self._stream.unsettled)
        self._stream.drop()
        self.window.clear()

    def _turn(self, now: float) -> float:
        stream, effect = self._stream, None
        while effects := stream.turn(now):
            for effect in effects:
                if isinstance(effect, Send):
                    self._door.tell(effect.peer, wire.Signal("recall"))
                elif isinstance(effect, Settle):
                    for task, reason in zip(effect.tasks, effect.payloads, strict=True):
                        self._intake.put(
                            task.id - task.offset, task.offset, Unheard(effect.state, reason, task)
                        )
                elif isinstance(effect, End) and (member := self._door.members.get(effect.peer)) is not None:
                    self._door.turn_out(member, "nothing was heard of it for too long", now, final=False)
        if stream.freed_bytes:
            self.window.freed(stream.freed_bytes)
            stream.freed_bytes = 0
        full = self._push(now)
        if self._has_ended(now) and not self._words:
            self.window.end()
        self.window.offer(stream.wanted - sum(1 for word in list(self._words) if type(word) is Feed))
        times = [stream.next_deadline(), now + RETRY_S if full else None]
        return min([time for time in times if time is not None], default=now + LOOK_S)

    def _has_ended(self, now: float) -> bool:
        """Whether nothing more comes of the run."""
        if not self._stream.is_halted:
            return self._fed_all and not self._stream.unsettled
        if self._intake.lost_at == inf:
            return not self._stream.running
        # What ran has nowhere to go, and the sink is to hear of the end, if it comes back soon.
        gives_up = now - max(self._halted_at, self._intake.lost_at) >= SINK_PATIENCE_S
        if gives_up and not self._gave_up:
            self._gave_up = True
            _log.warning("the sink has not come back: the run ends without it, and without what was running")
        return gives_up

    def _push(self, now: float) -> bool:
        """Fill the pipe; whether it would take no more."""
        stream = self._stream
        # Outcomes that nobody takes must not pile up: then only as much runs as keeps the first in line coming.
        while (self.window.has_room_for_results or not stream.running) and (run := stream.next(now)):
            if not self._pipe.send(codec.run(run, None, [], afar=True)):
                stream.refused(run)
                return True
        return False

    def _accept(self, accepted: Accepted) -> None:
        """The sink has these outcomes."""
        self._stream.receive(0, accepted, monotonic())

    # ---- workers -------------------------------------------------------------------------------------------------

    def _came(self, member: Member, _now: float) -> None:
        if member.about.role != "worker":
            raise PermissionError("this is a pipeline: it has work for workers, and answers nobody else")
        if member.about.python != self._python:
            raise PermissionError(
                f"the function was pickled by Python {self._python}, and this worker has {member.about.python}"
            )
        self._outside.add(member.number)
        own = self._own
        if own is not None and (member.about.host, member.about.pid) == (platform.node(), own.pid):
            self._own_number, own.has_come = member.number, True

    def _admit(self) -> None:
        target, intake = self._target, self._intake
        addresses = endpoint(self._pipe.socket), intake.address
        about = visit.Admit(
            self._pipeline, *addresses, intake.key, target.name, target.function, SILENCE_S / BEATS
        )
        for number in self._outside:
            self._door.tell(number, about)
        self._outside = set()

    def _said(self, member: Member, message: wire.Arrived, now: float) -> None:
        said = codec.core_message(message)
        if type(said) is Slots and member.number not in self._stream.hands:
            level = logging.DEBUG if member.number == self._own_number else logging.INFO
            _log.log(level, "worker %s has joined: slots %d", member.name, said.slots)
        if said is not None:
            self._stream.receive(member.number, said, now)

    def _left(self, member: Member, reason: str, now: float) -> None:
        self._outside.discard(member.number)
        self._stream.receive(member.number, Lost(reason), now)
        level = logging.DEBUG if member.number == self._own_number else logging.INFO
        _log.log(level, "worker %s is gone: %s", member.name, reason)


_nodes: weakref.WeakSet[VentilatorNode] = weakref.WeakSet()


def _leave_all() -> None:
    for node in list(_nodes):
        node.leave()


os.register_at_fork(after_in_child=_leave_all)
