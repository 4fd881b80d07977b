"""Tasks that await: coroutines, many at a time on the event loop of a child's main thread.

The child calls a task's function, and where that gives a coroutine, puts it here. While one awaits, the host is told
that there is room for more of the kind (`Slots`), and the loop waits for the data socket too. The claim is written
before each step of a coroutine: what ends this process in a step is to blame for that, and no other. Where all of them
awaited, nobody can tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import Context, copy_context
from time import monotonic, monotonic_ns, perf_counter
from typing import TYPE_CHECKING, Any

from zmqtasks import codec
from zmqtasks import payload as payloads
from zmqtasks.errors import TimeLimitExceeded, TooDeep
from zmqtasks.messages import CANCELLED, Ended, Ends, Slots
from zmqtasks.nodes.claim import ITEM, ORDINAL, SINCE
from zmqtasks.nodes.failure import unpicklable
from zmqtasks.nodes.link import Closed
from zmqtasks.nodes.verdict import CURRENT

if TYPE_CHECKING:
    from zmqtasks.nodes.child import Child
    from zmqtasks.nodes.verdict import Item

AT_ONCE = 100
STEP = AT_ONCE // 4  # for so many that await other tasks there is room for as many more
ASKING_MAX = 10_000
STUBBORN_S = (
    1.0  # after its time limit a coroutine may still clean up; one that lets nothing else run may go on
)
INSISTS = "zmqtasks-insists"


class Awaiting:
    """The coroutines of one child. `read` takes in what has come on its data socket; `hand` is what that brings."""

    def __init__(self, child: Child, hand: Any, read: Callable[[], None]) -> None:
        self._child = child
        self._hand = hand
        self._read = read
        self.begun: dict[int, float] = {}  # by ordinal: when, in seconds of the monotonic clock
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by ordinal
        self._items: dict[int, Item] = {}  # likewise
        self._cancelled: set[int] = set()  # ordinals: on request
        self._fns: set[int] = set()  # functions whose tasks were seen to await
        self._asking: dict[int, int] = {}  # by ordinal: how many other tasks it awaits
        self._told: Slots | None = None  # what the host knows, while it sends more than one
        self._flushing = False
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(self._task)
        self._loop.add_reader(child.data.fileno(), self._take)
        asyncio.set_event_loop(self._loop)

    @property
    def some(self) -> bool:
        """Whether any is under way."""
        return bool(self._items)

    def begin(self, item: Item, coroutine: Coroutine[Any, Any, Any], started: float) -> None:
        """`item` has been called, and this is what it gave."""
        self._fns.add(item[1])
        self._items[item[0]] = item
        self.begun[item[0]] = monotonic() - (perf_counter() - started)
        context = copy_context()
        context.run(CURRENT.set, item)
        task = self._loop.create_task(self._run(item, coroutine, started), context=context)
        self._tasks[item[0]] = task
        self._loop.call_soon(self.tell)  # after its first step: it may be through then

    def turn(self) -> None:
        """Go on with all of them, until there is something else to do."""
        while self._items:
            if self._hand:
                self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()
            if self._hand:
                return

    def tell(self) -> None:
        """Have the host send more of the kind while something awaits, and one at a time when nothing does.

        From any thread: the host hears it before it hears that there is nothing to be given back, or it would end this
        process for a task that can be ended alone.
        """
        with self._child.sending:
            slots = AT_ONCE + len(self._asking) // STEP * STEP
            room = Slots(slots, [], sorted(self._fns)) if self._items else None
            if room != self._told:
                self._told = room
                self._child.send(codec.simple(room or Slots(1)))

    def cancel(self, id_: int) -> None:
        """From another thread: end the task of that id."""
        begun = threading.Event()
        with contextlib.suppress(RuntimeError):  # the process ends
            self._loop.call_soon_threadsafe(self._cancel, id_, begun)
            threading.Thread(target=self._insist, args=(id_, begun), name=INSISTS, daemon=True).start()

    def has(self, id_: int) -> bool:
        """Whether the task of that id is under way."""
        return any(item[2] == id_ for item in list(self._items.values()))

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """While a coroutine awaits another task: others have its place, be it that task, or nothing would go on."""
        item = CURRENT.get()
        if item is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        if len(self._asking) >= ASKING_MAX:
            raise TooDeep(
                f"too many tasks of this process await others already ({ASKING_MAX}): it is too deep"
            )
        asking, ordinal = self._asking, item[0]
        asking[ordinal] = asking.get(ordinal, 0) + 1
        self.tell()
        try:
            yield
        finally:
            asking[ordinal] -= 1
            if not asking[ordinal]:
                del asking[ordinal]

    # ---- on the loop ---------------------------------------------------------------------------------------------

    def _take(self) -> None:
        try:
            self._read()
        except (Closed, OSError):
            os._exit(0)
        if self._hand:
            self._loop.stop()

    async def _run(self, item: Item, coroutine: Coroutine[Any, Any, Any], started: float) -> None:
        child, ordinal, more = self._child, item[0], item[4]
        limit = more.options.time_limit if more is not None and more.options is not None else None
        stubborn = None
        if limit is not None:
            stubborn = self._loop.call_later(limit + STUBBORN_S, self._stand_still, item)
        outcome: tuple[int, Any, Any] | None = None
        try:
            timeout = asyncio.timeout(limit and limit - (perf_counter() - started))
            try:
                async with timeout:
                    value = await coroutine
            except TimeoutError:
                if timeout.expired():
                    raise TimeLimitExceeded(f"it ran for longer than {limit:g} s") from None
                raise
            try:
                outcome = ordinal, payloads.dump_result(value), False
            except Exception as error:  # noqa: BLE001 - whatever pickling raises
                raise unpicklable(value, error) from None
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
            if not (isinstance(error, asyncio.CancelledError) and ordinal in self._cancelled):
                outcome = ordinal, *child.failed(error)
        if stubborn is not None:
            stubborn.cancel()
        child.outbox.pace.append((item[1], 1, perf_counter() - started))
        if child.traces.left:
            child.traces.wipe_one(item[2])
        if outcome is not None:
            child.outbox.singles.append(outcome)
        else:
            self._say_cancelled(ordinal)
        del self._items[ordinal], self._tasks[ordinal], self.begun[ordinal]
        self._cancelled.discard(ordinal)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if not self._items:
            self.tell()
            self._loop.stop()
        self._child.flush()

    def _cancel(self, id_: int, begun: threading.Event) -> None:
        begun.set()
        for ordinal, item in self._items.items():
            if item[2] == id_ and ordinal not in self._cancelled:  # once: it may take a while to clean up
                self._cancelled.add(ordinal)
                self._loop.call_soon(self._tasks[ordinal].cancel)  # behind its first step: it has an end then

    def _say_cancelled(self, ordinal: int) -> None:
        self._child.flush()
        self._child.send(
            codec.simple(Ends([Ended(ordinal, 0, 1, CANCELLED, "cancelled while it was running")]))
        )

    def _stand_still(self, item: Item) -> None:
        """It does not stop: as one that never awaits it keeps this process, which is ended for it."""
        self.step(item, threading.Event().wait)

    # ---- on a thread of its own ----------------------------------------------------------------------------------

    def _insist(self, id_: int, begun: threading.Event) -> None:
        """Where the task of that id keeps the loop from ending it, it ends with this process; the others run again."""
        child = self._child
        while not begun.wait(STUBBORN_S) and self.has(id_):
            with child.sending:
                ordinal = child.claim[ORDINAL]
                item = self._items.get(ordinal)
                if item is not None and item[2] == id_:
                    self._say_cancelled(ordinal)
                    os._exit(0)

    # ---- steps ---------------------------------------------------------------------------------------------------

    def _task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, context: Context | None = None, **about: Any
    ) -> asyncio.Task[Any]:
        item = CURRENT.get() if context is None else context.get(CURRENT)
        if item is not None:
            coroutine = _Steps(self, item, coroutine)
        return asyncio.Task(coroutine, loop=loop, context=context, **about)

    def step(self, item: Item, call: Callable[..., Any], *arguments: Any) -> Any:
        """Go on with a coroutine of `item`: it is what runs here now."""
        child, claim = self._child, self._child.claim
        limited = item[4] is not None and item[4].options is not None and item[4].options.time_limit
        child.item = item
        claim[SINCE] = claim[ITEM] = 0
        claim[ORDINAL] = item[0]
        if limited:
            claim[SINCE] = monotonic_ns()
        try:
            return call(*arguments)
        finally:
            claim[SINCE] = 0
            claim[ORDINAL] = -1
            child.item = None


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are known."""

    __slots__ = ("_awaiting", "_coroutine", "_item")

    def __init__(self, awaiting: Awaiting, item: Item, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._awaiting = awaiting
        self._item = item
        self._coroutine = coroutine

    def send(self, value: Any) -> Any:
        return self._awaiting.step(self._item, self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._awaiting.step(self._item, self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()
