"""A stream of inputs through a function on many workers, peer to peer: `Ventilator`."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar, get_args

from zmqtasks import joins
from zmqtasks.blobs import hold
from zmqtasks.calls import Calls
from zmqtasks.errors import ClientClosed, ForeignFuture, NotPicklable
from zmqtasks.feeder import Feeder
from zmqtasks.functions import Functions, name_of
from zmqtasks.keys import KeyStore
from zmqtasks.nodes.cpus import cpus
from zmqtasks.nodes.household import Plan
from zmqtasks.nodes.ventilator import Target, VentilatorNode
from zmqtasks.nodes.window import Window
from zmqtasks.options import DEFAULT_OPTIONS, Retry
from zmqtasks.results import OnError, Pieces, Results

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

WINDOW = 100_000  # inputs
WINDOW_BYTES = 64 << 20


class Ventilator(Generic[T, R]):
    """Workers for one function, `fn` of an input, and as many runs over inputs as you like, one after the other.

    `workers`: children on this machine (default: the CPUs that this process may use; none if there is a `bind`).
    `bind`: an address that workers of other machines can reach (`zmqtasks worker --ventilator ADDRESS`), with keys as a
    broker has them; without it nobody else can. `retry`, `time_limit`, `max_deliveries` are each input's options.
    `window`: how many inputs may be on their way, or have an outcome that nobody has taken, at a time; and 64 MiB.

    Use it in a `with`, or call `close`.
    """

    def __init__(
        self,
        fn: Callable[[T], R],
        *,
        workers: int | None = None,
        bind: str | None = None,
        retry: Retry | None = None,
        time_limit: float | None = None,
        max_deliveries: int = 3,
        name: str | None = None,
        window: int = WINDOW,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"a pipeline runs a function, not {fn!r}")
        if workers is None:
            workers = 0 if bind else cpus()
        for what, number, least in (("workers", workers, 0 if bind else 1), ("window", window, 1)):
            if not isinstance(number, int) or isinstance(number, bool):  # type: ignore[redundant-expr]  # anything may be passed
                raise TypeError(f"{what} is an int, not {number!r}")
            if number < least:
                raise ValueError(f"{what} is {least} or more, not {number}")
        self._fn = fn
        self._next = 0  # the number of the next run's first input
        self._pieces: weakref.ref[Pieces] | None = None  # of the run that is on
        self._window = window
        self._fed_max = window - window // 4  # the rest is for what is read and not fed
        packing = _Packing(by_value=bind is not None)
        self._calls = Calls(packing)
        options = DEFAULT_OPTIONS.replace(
            time_limit=time_limit, max_deliveries=max_deliveries, name=name,
            retry=None if retry is None else self._calls.rule(retry),
        )  # fmt: skip
        target = Target(name or name_of(fn), self._calls.function(fn), options)
        folder = "" if bind else tempfile.mkdtemp(prefix="zmqtasks-")
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            self._node = VentilatorNode(
                bind or f"ipc://{folder}/control",
                KeyStore(),
                target,
                f"{sys.version_info.major}.{sys.version_info.minor}",
                Window(self._fed_max, WINDOW_BYTES),
            )
            undo.pop_all()
        self._node.start(Plan(workers, cpus(), "local") if workers else None, folder=folder)
        self._close = weakref.finalize(self, _close, self._node, folder)

    @property
    def address(self) -> str:
        """Where workers find it."""
        return self._node.address

    @property
    def workers(self) -> dict[str, int]:
        """The workers that are here, by name: how many inputs each runs at a time."""
        return self._node.workers

    # ---- runs ----------------------------------------------------------------------------------------------------

    def run(self, items: Iterable[T], *, ordered: bool = False, on_error: OnError = "raise") -> Results[R]:
        """Run `items` through the function: (index, value) of each, once; as they come, or in order.

        `items` are read as they are needed, in another thread; what they raise comes when all before it is out.
        `on_error`: an input that fails for good raises its exception and ends the run ("raise"), comes with the
        exception in the value's place ("yield"), or not at all ("skip"). A run that begins ends the one before.
        """
        if on_error not in get_args(OnError):
            raise ValueError(f'on_error is "raise", "yield" or "skip", not {on_error!r}')
        return Results(self._begin(items, ordered=ordered), on_error)

    def chord(
        self,
        items: Iterable[T],
        body: Callable[[list[R]], S],
        *,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> S:
        """Run `items`, and then, once, `body` with the list of their values in order; what it returns.

        An input that fails for good raises, and `body` does not run; or it is left out ("skip").
        """
        pieces = self._begin(items, ordered=True)
        return joins.chord(pieces, body, skips=_skips(on_error))

    def fold(
        self,
        items: Iterable[T],
        step: Callable[[S, R], S],
        initial: S,
        *,
        ordered: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> S:
        """Run `items`, and fold their values as they come, or in order: `state = step(state, value)`, first `initial`.

        Nothing but the state is kept. An input that fails for good raises, or is left out ("skip").
        """
        skips = _skips(on_error)
        pieces = self._begin(items, ordered=ordered, keep=True)
        return joins.fold(pieces, step, initial, window=self._window, skips=skips)

    def _begin(self, items: Iterable[T], *, ordered: bool, keep: bool = False) -> Pieces:
        if not self._close.alive:
            raise ClientClosed("this pipeline is closed")
        self._node.raise_if_forked()
        iterator = iter(items)  # what cannot be iterated is an error here, not in another thread
        if self._pieces is not None and (before := self._pieces()) is not None:
            before.close()
        first = self._next
        self._node.begin(first, ordered=ordered)
        feeder = Feeder(
            iterator, self._node.wait_for_room, self._feed, self._node.fed_all, self._window - self._fed_max
        )
        pieces = Pieces(self._node, feeder, first, self._ended, keep=keep)
        self._pieces = weakref.ref(pieces)
        return pieces

    def _feed(self, batch: list[T]) -> None:
        """Hand a batch on; an input that cannot be pickled fails, and the others run."""
        fed = 0
        try:
            for _, count, payload in self._calls.batches(batch, len(batch), self._fn, star=False):
                first, self._next = self._next, self._next + count
                self._node.feed(first, count, payload)
                fed += count
        except (NotPicklable, ForeignFuture) as error:
            rest = batch[fed:]
            if middle := len(rest) // 2:
                self._feed(rest[:middle])
                self._feed(rest[middle:])
                return
            first, self._next = self._next, self._next + 1
            self._node.feed_failure(first, type(error)(str(error).replace("items[0]", "the input", 1)))

    def _ended(self) -> None:
        self._pieces = None

    def close(self) -> None:
        """Stop the run that is on, and end the workers."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Packing:
    """What pickles the inputs asks for: as a client's host, where nothing travels twice."""

    workers = 1
    ids = None

    def __init__(self, *, by_value: bool) -> None:
        self.by_value = by_value
        self.functions = Functions(by_value=by_value)
        self.shelf = self
        self.hold = hold


def _close(node: VentilatorNode, folder: str) -> None:
    node.close()
    if folder and not node.forked:
        shutil.rmtree(folder, ignore_errors=True)


def _skips(on_error: str) -> bool:
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is "raise" or "skip" here, not {on_error!r}')
    return on_error == "skip"
