"""The process that runs tasks: one at a time, on its main thread.

The main thread reads tasks from the data socket into its hand, runs them in order, and sends outcomes when 2 ms have
passed or the hand is empty. A service thread sits on the control socket: when the host recalls, it sends what is
finished and gives back what has not started, also from behind a task that runs for long; and when the host is gone it
ends the process. Before each task the main thread writes to its claim what it is about to run.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import monotonic_ns, perf_counter
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, NoReturn

from zmqtasks import codec, wire
from zmqtasks import payload as payloads
from zmqtasks.blobs import FRAME_BYTES_MIN
from zmqtasks.nodes import loaded
from zmqtasks.nodes.claim import SINCE, begin
from zmqtasks.nodes.failure import unpicklable
from zmqtasks.nodes.link import DONTWAIT, Closed, Link
from zmqtasks.nodes.outbox import Outbox, Span
from zmqtasks.nodes.traces import Traces
from zmqtasks.nodes.verdict import CURRENT, Item, Verdicts

if TYPE_CHECKING:
    from zmqtasks.messages import Ask
    from zmqtasks.nodes.awaiting import Awaiting
    from zmqtasks.nodes.yields import Yields

FLUSH_S = 0.002
GOES_ON = frozenset({AsyncGeneratorType, CoroutineType, GeneratorType})  # results that are yet to be run
LIMITED_FLUSH_S = 0.0002  # of a span with a time limit: what is finished and not sent goes with its process


class Child:
    """The child that this process is."""

    def __init__(
        self, data: int, control: int, claim: memoryview, log_level: int, cluster: tuple[str, int, int]
    ) -> None:
        self.data = Link(socket.socket(fileno=data))
        self.control = Link(socket.socket(fileno=control))
        self.cluster = cluster  # its id, this child's peer number, its workers
        self.item: Item | None = None  # what is running
        self.inbox: Callable[[wire.Arrived], None] | None = None  # answers to what tasks ask for
        self._flushed = 0.0
        self.claim = claim
        self._hand: deque[Item] = deque()
        self.awaiting: Awaiting | None = None  # from the first coroutine on
        self.yields: Yields | None = None  # from the first generator on
        self.outbox = Outbox()
        self._functions = loaded.Loaded()
        self._verdicts = Verdicts(globals(), loaded.__dict__)
        self._poll = select.poll()  # the main thread's
        self._peek = select.poll()  # for who holds `_reading`
        for poll in (self._poll, self._peek):
            poll.register(self.data, select.POLLIN)
        self._reading = threading.Lock()  # of the data socket
        self.sending = threading.RLock()  # outcomes, and whatever else goes out on the data socket
        self.traces = Traces(self._task_name, log_level, lambda progress: self.send(codec.simple(progress)))

    def _task_name(self) -> str:
        return self.name_of(self.item) if self.item is not None else ""

    def name_of(self, item: Item) -> str:
        """What a task is called in output and errors."""
        _, fn, _, _, more = item
        return (more and more.options and more.options.name) or self._functions.sent[fn][0]

    @property
    def current(self) -> Item | None:
        """What the caller is part of."""
        return CURRENT.get() or self.item

    def asking(self) -> AbstractContextManager[None]:
        """For as long as the caller awaits another task."""
        return self.awaiting.asking() if self.awaiting is not None else nullcontext()

    def running_id(self, item: Item) -> int:
        """The id of what is running: of a span, the item's."""
        more = item[4]
        return item[2] + self.claim[1] - more.offset if more is not None and more.count else item[2]

    # ---- the main thread -----------------------------------------------------------------------------------------

    def run(self) -> NoReturn:
        """Run tasks until the host closes."""
        self.send(codec.simple(wire.Hello(os.getpid())))
        hand, claim = self._hand, self.claim
        claim[0] = -1
        while True:
            if self.awaiting is not None and self.awaiting.some:
                self.flush()
                self.item, claim[0] = None, -1
                self.awaiting.turn()
            try:
                item = hand.popleft()
            except IndexError:
                if self.awaiting is not None and self.awaiting.some:
                    continue  # what had come was given back
                self.item = None
                self.flush()
                self._receive()  # with the claim as it is: a task that has broken the links is to blame for that
                continue
            more = item[4]
            if more is not None and more.count:
                self._run_span(item, more)
            elif more is None and type(item[3]) is bytes:
                self._run_singles(item)
            else:
                self._run_one(item)

    def _receive(self) -> None:
        while not self._hand:
            self._poll.poll()  # not under the lock: the service thread may come in at any moment, and then reads all
            self._read_locked()

    def _read_locked(self) -> None:
        with self._reading:
            self._read()

    def _read(self) -> None:
        """Take what has arrived. The caller holds `_reading`."""
        try:
            while True:
                for message in self.data.read(DONTWAIT):
                    self._take(message)
                if self._hand:
                    return
        except BlockingIOError:
            return

    def _take(self, message: wire.Arrived) -> None:
        head = message.head
        if type(head) is wire.Forget:
            for digest in head.digests:
                self.data.blobs.pop(digest, None)
            return
        for number, name, data in head.functions:
            self._functions.sent[number] = (name, data)
        for blob in head.blobs:
            self.data.blobs[blob.digest] = message.buffer(blob.buffer, blob.digest)
        self._hand.extend(codec.tasks(message))

    def _run_singles(self, item: Item) -> None:
        """Plain tasks of one function, until another kind is next, the hand is empty, or it is time to send."""
        hand, outbox, claim = self._hand, self.outbox.singles, self.claim
        loads, dump = payloads.loads, payloads.dump_result
        fn = item[1]
        function = self._functions.ready.get(fn)
        payload: payloads.Payload | None
        started = now = perf_counter()
        flush_at = started + FLUSH_S
        ran = 0
        while True:
            claim[0] = item[0]
            self.item = item
            try:
                arguments = loads(item[3])
                if type(arguments) is tuple and function is not None:
                    value = function(*arguments)
                else:
                    value = self._functions.call(fn, arguments)
                    function = self._functions.ready.get(fn)
                if type(value) in GOES_ON:
                    if type(value) is not GeneratorType:
                        self._await(item, value, now)
                        break
                    value = self._drain(item, value)
                try:
                    payload = dump(value)
                except Exception as error:  # noqa: BLE001 - whatever pickling raises
                    raise unpicklable(value, error) from None
                outbox.append((item[0], payload, False))
            except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
                outbox.append((item[0], *self.failed(error)))
            arguments = value = payload = None  # what is not needed is not kept until the next task
            ran += 1
            if self.traces.left:
                self.traces.wipe()
            now = perf_counter()
            if now >= flush_at:
                break
            try:
                following = hand.popleft()
            except IndexError:
                break
            if following[1] != fn or following[4] is not None:
                hand.appendleft(following)
                break
            item = following
        if ran:
            self.outbox.pace.append((fn, ran, now - started))
        if now >= flush_at:
            self.item = None  # whoever hears of the outcome finds nothing running
            self.flush()

    def _run_one(self, item: Item) -> None:
        """A task with inputs, options, or buffers out of band."""
        ordinal, fn, _, payload, more = item
        if more is not None and more.options is not None and more.options.time_limit:
            self.flush()  # what is finished is not lost with this one
            begin(self.claim, ordinal)
        else:
            self.claim[0] = ordinal
        self.item = item
        started = perf_counter()
        try:
            inputs = loaded.inputs_of(more.inputs, self.cluster[0]) if more is not None else []
            value = self._functions.call(fn, payloads.load(payload, inputs))
            if type(value) in GOES_ON:
                if type(value) is not GeneratorType:
                    self._await(item, value, started)
                    return
                value = self._drain(item, value)
            try:
                result = payloads.dump_result(value)
            except Exception as error:  # noqa: BLE001 - whatever pickling raises
                raise unpicklable(value, error) from None
            self.outbox.singles.append((ordinal, result, False))
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
            self.outbox.singles.append((ordinal, *self.failed(error)))
            result = b""
        self.claim[SINCE] = 0
        inputs, value = [], None  # not kept while this process idles
        if self.traces.left:
            self.traces.wipe()
        now = perf_counter()
        self.outbox.pace.append((fn, 1, now - started))
        if now - self._flushed > FLUSH_S or len(result) >= FRAME_BYTES_MIN:
            self.item = None
            self.flush()

    def _run_span(self, item: Item, more: wire.Single) -> None:
        """The items of a span, one after the other; each has an outcome of its own."""
        ordinal, fn, _, payload, _ = item
        claim, outbox = self.claim, self.outbox
        index = first = more.offset
        limited = more.options is not None and bool(more.options.time_limit)
        flush_s = LIMITED_FLUSH_S if limited else FLUSH_S
        claim[SINCE] = 0
        claim[1] = index
        claim[0] = ordinal
        self.item = item
        started = sent = perf_counter()
        span = Span(ordinal, self.name_of(item), first, first + more.count)
        outbox.begin_span(span)
        try:
            star, items, *rest = payloads.load(payload)
            function = loaded.blocking(rest[0] if rest else self._functions.function(fn))
            span.begin(function, more.attempt)
        except BaseException as error:  # noqa: BLE001 - no item can run
            payload, _ = self.failed(error)
            with self.sending:
                for at in range(first, span.limit):
                    outbox.fail_item(at, payload)
                outbox.end_span()
            return
        append = span.values.append
        while True:
            claim[1] = index
            if index >= span.limit:
                with self.sending:  # a recall in the making may have put the limit low for a moment
                    if index >= span.limit:
                        outbox.end_span()
                        break
            if limited:
                claim[SINCE] = monotonic_ns()
            try:
                append(function(*items[index]) if star else function(items[index]))
            except BaseException as error:  # noqa: BLE001 - whatever an item raises is its outcome
                payload, ask = self.failed(error)
                with self.sending:
                    outbox.fail_item(index, payload, ask)
            if limited:
                claim[SINCE] = 0
            index += 1
            if self.traces.left:
                self.traces.wipe()
            now = perf_counter()
            if now - sent >= flush_s:
                outbox.pace.append((fn, index - first, now - started))
                started, first, sent = now, index, now
                self.flush()
        if index > first:
            outbox.pace.append((fn, index - first, perf_counter() - started))
        if index > more.offset:
            claim[1] = index - 1  # what ran last, until its outcome is sent

    def _await(self, item: Item, coroutine: Any, started: float) -> None:
        """Go on with others while it awaits."""
        if self.awaiting is None:
            from zmqtasks.nodes.awaiting import Awaiting

            self.awaiting = Awaiting(self, self._hand, self._read_locked)
        self.claim[SINCE] = 0
        if type(coroutine) is AsyncGeneratorType:
            coroutine = self._yields().drain_async(item[2], coroutine)
        self.awaiting.begin(item, coroutine, started)

    def _drain(self, item: Item, generator: Any) -> Any:
        """Run a generator; what it yields is seen on the way."""
        self.flush()  # it may take its time
        return self._yields().drain(item[2], generator)

    def _yields(self) -> Yields:
        if self.yields is None:
            from zmqtasks.nodes.yields import Yields

            self.yields = Yields(lambda yielded: self.send(codec.simple(yielded)))
        return self.yields

    # ---- what a task leaves --------------------------------------------------------------------------------------

    def failed(self, error: BaseException) -> tuple[payloads.Payload, bool | Ask]:
        """What becomes of the running task that has raised `error`: its payload, and whether it asks for more."""
        item = self.item
        assert item is not None, "a failure is a task's"
        wanted = item[2] not in self.traces.unwanted
        return self._verdicts.of(error, item, self._task_name(), self.claim[1], wanted=wanted)

    # ---- both threads --------------------------------------------------------------------------------------------

    def send(self, message: wire.Message) -> None:
        """`message` to the host, on the data socket."""
        with self.sending:
            self.data.send(message)

    def flush(self) -> None:
        """Send the outcomes that are there."""
        with self.sending:
            self._flushed = perf_counter()
            for done in self.outbox.take():
                self.data.send(codec.done(done))

    def give_back(self, link: Link) -> None:
        """Send what is finished, and give back what has not started, through `link`."""
        with self._reading:
            self._read()
            while self._peek.poll(0):
                self._read()
        if self.awaiting is not None:
            self.awaiting.tell()
        rest: list[tuple[int, int, int]] = []
        with self.sending:
            while True:
                try:
                    ordinal, _, _, _, more = self._hand.pop()
                except IndexError:
                    break
                rest.append(
                    (ordinal, more.offset, more.count) if more is not None and more.count else (ordinal, 0, 1)
                )
            if (span := self.outbox.span) is not None:
                limit = span.limit
                span.limit = -1  # it stops here ...
                current = self.claim[1]
                span.limit = min(limit, current + 1)  # ... or after the item that it has begun
                if limit > span.limit:
                    rest.append((span.ordinal, span.limit, limit - span.limit))
            self.flush()
            link.send(codec.simple(wire.Rest(rest[::-1])))

    # ---- the service thread --------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer the host until it closes or is gone: then the process ends, whatever the main thread does."""
        try:
            while True:
                for message in self.control.read():
                    self._serve(message)
        except (Closed, OSError):
            os._exit(0)

    def _serve(self, message: wire.Arrived) -> None:
        head = message.head
        awaiting = self.awaiting
        if type(head) is wire.Dropped:
            runs = self.item is not None and self.item[2] == head.id
            if runs or (awaiting is not None and awaiting.has(head.id)):
                self.traces.drop(head.id)
        elif type(head) is wire.CancelAsked:
            if awaiting is not None:
                awaiting.cancel(head.id)
        elif type(head) is wire.Signal and head.name == "recall":
            self.give_back(self.control)
        elif self.inbox is not None:
            self.inbox(message)


RUNNING: Child | None = None  # this process, if it is a child
