"""The futures of a `map`: one for each item, made when it is looked at."""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, Generic, TypeVar, overload

from zmqtasks.future import Future
from zmqtasks.host import Host
from zmqtasks.messages import SUCCEEDED, Items, Report, Task
from zmqtasks.outcome import Piece
from zmqtasks.payload import error_of

T = TypeVar("T")


class Joined(Future[T], Generic[T]):
    """The future of a group."""

    __slots__ = ("_children",)

    def __init__(self, host: Host, number: int) -> None:
        super().__init__(host, number)
        self._children: Sequence[Future[Any]] = ()

    @property
    def children(self) -> Sequence[Future[Any]]:
        """The futures of its members; of an iterator's, those that were submitted by now."""
        return self._children

    def adopt(self, _id: int, children: Sequence[Future[Any]]) -> None:
        """These are its members."""
        self._children = children


class Array(Sequence[Future[T]], Generic[T]):
    """`count` futures with consecutive ids from `base` on; outcomes come in pieces, each of neighbours."""

    def __init__(self, host: Host, base: int, count: int) -> None:
        self._host = host
        self._base = base
        self._count = count
        self._lock = threading.Lock()
        self._firsts: list[int] = []  # of the pieces, in order
        self._pieces: list[Piece] = []
        self._seen: dict[int, Future[T]] = {}  # futures that were looked at before they were settled
        # All that are about.
        self._kept: weakref.WeakValueDictionary[int, Future[T]] = weakref.WeakValueDictionary()
        self._nested: dict[int, Sequence[Future[Any]]] = {}  # the members' own members, where they are groups
        self._awaited = -1
        self._latch: Any = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Future[T]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Future[T]]: ...
    def __getitem__(self, index: int | slice) -> Future[T] | Sequence[Future[T]]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._count))]
        if index < 0:
            index += self._count
        if not 0 <= index < self._count:
            raise IndexError(f"item {index} of {self._count}")
        with self._lock:
            future = self._kept.get(index)
            if future is None:
                future = self._kept[index] = self._made(index)
                piece = self._find(index)
                if piece is None:
                    self._seen[index] = future
                else:
                    future.take(piece, index - piece.first)
            return future

    def _made(self, index: int) -> Future[T]:
        nested = self._nested.get(index)
        if nested is None:
            return Future(self._host, self._base + index)
        joined: Joined[T] = Joined(self._host, self._base + index)
        joined.adopt(self._base + index, nested)
        return joined

    def adopt(self, id_: int, children: Sequence[Future[Any]]) -> None:
        """The member of that id is a group, and these are its members."""
        self._nested[id_ - self._base] = children

    def settle(self, task: Task, state: int, outcome: Any) -> None:
        """The final outcome of a span; called by the host alone."""
        first = task.id - self._base
        piece = Piece(first, task, state, outcome)
        with self._lock:
            at = bisect_right(self._firsts, first)
            self._firsts.insert(at, first)
            self._pieces.insert(at, piece)
            seen = []
            if self._seen:
                places = range(first, first + task.count)
                wanted = [at for at in self._seen if at in places] if len(self._seen) < task.count else places
                seen = [(at, self._seen.pop(at)) for at in wanted if at in self._seen]
            if self._latch is not None and first <= self._awaited < first + task.count:
                self._latch.release()
                self._latch = None
        for index, future in seen:
            future.take(piece, index - piece.first)

    def report(self, id_: int, report: Report | Items) -> None:
        """An item says how far it is; called by the host alone."""
        if (future := self._seen.get(id_ - self._base)) is not None:
            future.report(id_, report)

    def values(self, timeout: float | None) -> Iterator[T]:
        """The values in order; raises at the first failure. A piece is forgotten as it is given out."""
        end = None if timeout is None else monotonic() + timeout
        index = 0
        while index < self._count:
            piece = self._wait(index, end)
            if piece.state != SUCCEEDED:
                id_ = f"{self._host.cluster_id}-{self._base + index}"
                raise error_of(piece.state, piece.outcome, id_, self._host.cluster_id)
            values = piece.values()
            index = piece.first + piece.count
            with self._lock:
                at = bisect_right(self._firsts, piece.first) - 1
                del self._firsts[at], self._pieces[at]
            del piece
            values.reverse()
            while values:
                yield values.pop()

    def cancel(self) -> None:
        """Cancel what has not started; running items go on, unheard."""
        self._host.cancel_all(self._base, self._count)

    def _wait(self, index: int, end: float | None) -> Piece:
        while True:
            with self._lock:
                piece = self._find(index)
                if piece is not None:
                    return piece
                latch = self._latch = threading.Lock()
                latch.acquire()
                self._awaited = index

            def park(latch: Any = latch) -> bool:
                return bool(latch.acquire(timeout=-1 if end is None else max(0.0, end - monotonic())))

            if not self._host.wait(park, self._base + index):
                raise TimeoutError(f"no outcome of item {index} in time")

    def _find(self, index: int) -> Piece | None:
        at = bisect_right(self._firsts, index) - 1
        piece = self._pieces[at] if at >= 0 else None
        return piece if piece is not None and index < piece.first + piece.count else None
