"""A function with its workers, and one run after the other: what `Ventilator` and the command line have in common."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from zmqtasks.blobs import hold
from zmqtasks.calls import Calls
from zmqtasks.errors import ClientClosed, ForeignFuture, NotPicklable
from zmqtasks.feeder import Feeder
from zmqtasks.functions import Functions, name_of
from zmqtasks.keys import KeyStore
from zmqtasks.nodes.cpus import cpus
from zmqtasks.nodes.household import Plan
from zmqtasks.nodes.intake import Far
from zmqtasks.nodes.ventilator import Target, VentilatorNode
from zmqtasks.nodes.window import Window
from zmqtasks.options import DEFAULT_OPTIONS, Retry
from zmqtasks.results import Feeds, Pieces

WINDOW_BYTES = 64 << 20
SOCKET_BYTES_MAX = 100  # of a socket's name: the system's limit is 107 or 103


Source = Callable[["Pipe"], Feeds]


class Pipe:
    """`workers`: children of a worker on this machine, whose tasks print to `output`; `sink`: one elsewhere."""

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        workers: int,
        bind: str | None,
        retry: Retry | None,
        window: int,
        sink: Far | None = None,
        output: int | None = None,
        **options: Any,
    ) -> None:
        self.window = window
        self.fed_max = window - window // 4  # the rest is for what is read and not fed
        self._fn = fn
        self._next = 0  # the number of the next run's first input
        self._run: weakref.ref[Pieces] | None = None  # the run that is on
        self._calls = Calls(_Packing(by_value=bind is not None))
        rule = None if retry is None else self._calls.rule(retry)
        target = Target(
            options.get("name") or name_of(fn),
            self._calls.function(fn),
            DEFAULT_OPTIONS.replace(retry=rule, **options),
        )
        folder = _folder() if bind is None else ""
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            self.node = VentilatorNode(
                f"ipc://{folder}/control" if bind is None else bind,
                KeyStore(),
                target,
                f"{sys.version_info.major}.{sys.version_info.minor}",
                Window(self.fed_max, WINDOW_BYTES),
                sink,
            )
            undo.pop_all()
        plan = Plan(workers, cpus(), "local") if workers else None
        self.node.start(plan, output=output, folder=folder)
        self.close = weakref.finalize(self, _close, self.node, folder)

    def begin(
        self,
        source: Source,
        *,
        ordered: bool,
        keep: bool = False,
        error_of: Callable[[int, Any], BaseException] | None = None,
    ) -> Pieces:
        """Run what `source` feeds; the run that was on is ended. `keep` and `error_of` as in `Pieces`."""
        if not self.close.alive:
            raise ClientClosed("this pipeline is closed")
        self.node.raise_if_forked()
        if self._run is not None and (before := self._run()) is not None:
            before.close()
        first = self._next
        self.node.begin(first, ordered=ordered)
        pieces = Pieces(self.node, source(self), first, keep=keep, error_of=error_of)
        self._run = weakref.ref(pieces)
        return pieces

    def feed(self, items: list[Any]) -> None:
        """The inputs that come next. One that cannot be pickled fails, and the others run."""
        before = self._next
        try:
            for _, count, payload in self._calls.batches(items, len(items), self._fn, star=False):
                first, self._next = self._next, self._next + count
                self.node.feed(first, count, payload)
        except (NotPicklable, ForeignFuture) as error:
            rest = items[self._next - before :]
            if middle := len(rest) // 2:
                self.feed(rest[:middle])
                self.feed(rest[middle:])
                return
            first, self._next = self._next, self._next + 1
            self.node.feed_failure(first, type(error)(str(error).replace("items[0]", "the input", 1)))

    def feed_at(self, first: int, items: list[tuple[Any, ...]]) -> None:
        """Inputs from number `first` on, which can be pickled: of each the arguments."""
        for at, count, payload in self._calls.batches(items, len(items), self._fn, star=True):
            self.node.feed(first + at, count, payload)


class _Packing:
    """What pickles the inputs asks for: as a client's host, where nothing travels twice."""

    workers = 1
    ids = None

    def __init__(self, *, by_value: bool) -> None:
        self.by_value = by_value
        self.functions = Functions(by_value=by_value)
        self.shelf = self
        self.hold = hold


def _folder() -> str:
    """A new one for sockets, where their names are not too long for that: the rest of them has 40 bytes."""
    usual = len(os.fsencode(tempfile.gettempdir())) + 40 <= SOCKET_BYTES_MAX
    return tempfile.mkdtemp(prefix="zmqtasks-", dir=None if usual else "/tmp")  # noqa: S108 - it is ours alone


def _close(node: VentilatorNode, folder: str) -> None:
    node.close()
    if folder and not node.forked:
        shutil.rmtree(folder, ignore_errors=True)


def reading(items: Iterable[Any]) -> Source:
    """What reads `items`, whatever they are."""
    iterator = iter(items)  # what cannot be iterated is an error here, not in another thread
    return lambda pipe: Feeder(
        iterator, pipe.node.wait_for_room, pipe.feed, pipe.node.fed_all, pipe.window - pipe.fed_max
    )
