"""The outcomes of a pipeline's run, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, Literal, Protocol, TypeVar

from zmqtasks import payload as payloads
from zmqtasks.core.gather import Piece
from zmqtasks.nodes.ventilator import VentilatorNode
from zmqtasks.nodes.window import Unheard
from zmqtasks.payload import error_of
from zmqtasks.salvage import Lost, load_each

R = TypeVar("R")
OnError = Literal["raise", "yield", "skip"]


class Feeds(Protocol):
    """What reads the inputs of a run and feeds them."""

    error: BaseException | None  # why it has ended, if not because there are no more

    def stop(self) -> None:
        """Read nothing more, and feed nothing more when this returns."""


class Pieces(Iterator[Piece]):
    """The outcomes as they lie, neighbours together; numbers count from `first`, the run's input 0.

    A piece counts in the window until it is released (`keep`) or the next one is asked for. `error_of`: what an input
    has failed with, if not with what it has raised.
    """

    def __init__(
        self,
        node: VentilatorNode,
        feeder: Feeds,
        first: int,
        *,
        keep: bool = False,
        error_of: Callable[[int, Any], BaseException] | None = None,
    ) -> None:
        self.first = first
        self.release = node.release
        self._node = node
        self._feeder = feeder
        self._keep = keep
        self._error_of = error_of
        self._taken: Iterator[Piece] = iter(())
        self._last: Piece | None = None
        self._closed = False

    def __next__(self) -> Piece:
        self._node.raise_if_forked()
        if self._last is not None and not self._keep:
            self.release(self._last)
        self._last = next(self._taken, None)
        if self._last is None and not self._closed:
            try:
                self._taken = iter(self._node.window.take(None))
            except BaseException:
                self.close()
                raise
            self._last = next(self._taken, None)
        if self._last is None:
            error = None if self._closed else self._feeder.error
            self.close()
            if error is not None:
                raise error
            raise StopIteration
        return self._last

    def error(self, piece: Piece) -> BaseException:
        """What an input that has failed has raised."""
        index, payload = piece.first - self.first, piece.payload
        if self._error_of is not None:
            return self._error_of(index, payload)
        if isinstance(payload, Unheard) and isinstance(payload.reason, BaseException):
            error = payload.reason
        elif isinstance(payload, Unheard):
            error = error_of(payload.state, payload.reason, f"of input {index}", "")
        else:
            error = payloads.load_error(payload)
        error.add_note(f"This was input {index} of the pipeline's run.")
        return error

    def close(self) -> None:
        """Stop: read nothing more, give up what has not started, and forget the rest."""
        if not self._closed and not self._node.forked:
            self._closed = True
            self._taken = iter(())
            self._node.window.end()
            self._feeder.stop()
            self._node.drop()


class Results(Iterator[tuple[int, Any]], Generic[R]):
    """(index, value) of each input once: as they come, or in order. For one thread, or one asyncio task.

    Whoever breaks out of the loop has stopped the run: what has not started is given up. `close` does it at once.
    """

    def __init__(self, pieces: Pieces, on_error: OnError) -> None:
        self._pieces = pieces
        self._on_error = on_error
        self._values: Iterator[tuple[int, Any]] = iter(())

    def __next__(self) -> tuple[int, Any]:
        while True:
            for found in self._values:
                return found
            self._values = self._next_values()

    def _next_values(self) -> Iterator[tuple[int, Any]]:
        """Those of the next piece; at the end its `StopIteration`."""
        piece = next(self._pieces)
        index = piece.first - self._pieces.first
        if piece.failed:
            return self._failed(index, self._pieces.error(piece))
        values = values_of(piece)
        if Lost not in {*map(type, values)}:
            return enumerate(values, index)
        return self._each(index, values)

    def _each(self, index: int, values: list[Any]) -> Iterator[tuple[int, Any]]:
        for at, value in enumerate(values, index):
            if type(value) is Lost:
                yield from self._failed(at, unloadable(value, at))
            else:
                yield at, value

    def _failed(self, index: int, error: BaseException) -> Iterator[tuple[int, Any]]:
        if self._on_error == "raise":
            self.close()
            raise error
        return iter([(index, error)] if self._on_error == "yield" else [])

    def close(self) -> None:
        """Stop the run: nothing more comes."""
        self._values = iter(())
        self._pieces.close()

    def __del__(self) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Any]]:
        """The same in asyncio: a thread waits, and the loop goes on meanwhile."""
        try:
            while (values := await asyncio.to_thread(self._next_values_or_none)) is not None:
                for found in values:
                    yield found
        finally:
            self.close()

    def _next_values_or_none(self) -> Iterator[tuple[int, Any]] | None:
        try:
            return self._next_values()
        except StopIteration:  # which cannot pass through a thread
            return None


def values_of(piece: Piece) -> list[Any]:
    """The values of a piece that has not failed; a `Lost` for one that cannot be rebuilt."""
    values = load_each(piece.payload)
    return values if len(values) == piece.items else values[piece.skip : piece.skip + piece.items]


def unloadable(lost: Lost, index: int) -> Exception:
    """Why the result of an input cannot be rebuilt here."""
    error = lost.error
    error.add_note(f"Input {index} of the pipeline's run was done; this was raised here, from its result.")
    return error
