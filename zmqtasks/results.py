"""The outcomes of a pipeline's run, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, Literal, TypeVar

from zmqtasks import payload as payloads
from zmqtasks.core.gather import Piece
from zmqtasks.feeder import Feeder
from zmqtasks.nodes.ventilator import Unheard, VentilatorNode
from zmqtasks.outcome import error_of

R = TypeVar("R")
OnError = Literal["raise", "yield", "skip"]


class Results(Iterator[tuple[int, Any]], Generic[R]):
    """(index, value) of each input once: as they come, or in order. For one thread, or one asyncio task.

    Whoever breaks out of the loop has stopped the run: what has not started is given up. `close` does it at once.
    """

    def __init__(
        self, node: VentilatorNode, feeder: Feeder, first: int, on_error: OnError, over: Callable[[], None]
    ) -> None:
        self.failed = 0  # inputs so far
        self._node = node
        self._feeder = feeder
        self._first = first  # the number of input 0
        self._on_error = on_error
        self._over = over
        self._piece: Piece | None = None  # what is being given out
        self._values: Iterator[tuple[int, Any]] = iter(())
        self._closed = False

    def pieces(self) -> Iterator[Piece]:
        """The outcomes as they lie, at a stretch; a piece counts in the window until the next is asked for."""
        try:
            while pieces := self._node.take():
                for piece in pieces:
                    yield piece
                    self._node.release(piece)
            if not self._closed and (error := self._feeder.error) is not None:
                raise error
        finally:
            self.close()

    def __next__(self) -> tuple[int, Any]:
        while True:
            for found in self._values:
                return found
            self._values = self._next_values()

    def _next_values(self) -> Iterator[tuple[int, Any]]:
        """Those of the next piece."""
        if not hasattr(self, "_pieces"):
            self._pieces = self.pieces()
        piece = next(self._pieces)  # StopIteration is the end of this one too
        index = piece.first - self._first
        if not piece.failed:
            values = payloads.load(piece.payload)
            return enumerate(
                values[piece.skip : piece.skip + piece.items]
                if piece.skip or len(values) != piece.items
                else values,
                index,
            )
        self.failed += 1
        error = self._error(piece, index)
        if self._on_error == "raise":
            self.close()
            raise error
        return iter([(index, error)] if self._on_error == "yield" else [])

    @staticmethod
    def _error(piece: Piece, index: int) -> BaseException:
        payload = piece.payload
        if isinstance(payload, Unheard):
            error = error_of(payload.state, payload.reason, f"of input {index}", "")
        else:
            error = payloads.load_error(payload)
        error.add_note(f"Input {index} of the pipeline's run.")
        return error

    def close(self) -> None:
        """Stop: read nothing more, give up what has not started, and forget the rest."""
        if not self._closed:
            self._closed = True
            self._feeder.stop()
            self._node.drop()
            self._over()

    def __del__(self) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Any]]:
        """The same in asyncio: each wait is a thread's, and the loop goes on meanwhile."""
        try:
            while True:
                values = await asyncio.to_thread(self._next_values_or_none)
                if values is None:
                    return
                for found in values:
                    yield found
        finally:
            self.close()

    def _next_values_or_none(self) -> Iterator[tuple[int, Any]] | None:
        try:
            return self._next_values()
        except StopIteration:  # which cannot pass through a thread
            return None
