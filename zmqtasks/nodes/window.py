"""What a pipeline's run has on its way: bounded, and where its threads meet.

One thread reads inputs and waits in `wait_for_room`; one takes outcomes with `take` and gives back with `release` what
they held; the I/O thread does all else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from zmqtasks.core.gather import Piece
from zmqtasks.messages import Task

BATCH_BYTES = 128 << 10  # of inputs that are sent together


class Unheard:
    """The payload of a failure that no child has told: its state and reason, and where its input is."""

    __slots__ = ("reason", "state", "task")

    def __init__(self, state: int, reason: object, task: Task) -> None:
        self.state = state
        self.reason = reason
        self.task = task

    def __len__(self) -> int:
        return 0


class Window:
    """At most `items_max` inputs and `bytes_max` bytes, be they inputs without an outcome or outcomes not released."""

    def __init__(self, items_max: int, bytes_max: int) -> None:
        self.error: BaseException | None = None  # why the pipeline cannot go on
        self.is_over = True  # nothing more comes, beside what can be taken
        self._items_max, self._bytes_max = items_max, bytes_max
        self._flow = threading.Condition()
        self._wanted = 0  # batches that the workers would like to have
        self._items = self._bytes = 0
        self._results_bytes = 0  # of the bytes, those of outcomes
        self._batch_max = 1  # inputs that are not too much for one batch
        self._out: deque[Piece] = deque()
        self._first: int | None = None  # number of the run that is on

    @property
    def has_room_for_results(self) -> bool:
        """Whether outcomes that nobody has taken do not fill it."""
        return self._results_bytes < self._bytes_max

    # ---- who reads the inputs ------------------------------------------------------------------------------------

    def wait_for_room(self, batch_items: Callable[[], int]) -> int:
        """Wait until a batch may be fed: how many inputs it may have, `batch_items` at most; 0 if nobody wants any."""
        with self._flow:
            while not self.is_over and self.error is None:
                if self._wanted > 0 and self._items < self._items_max and self._bytes < self._bytes_max:
                    return max(1, min(batch_items(), self._items_max - self._items, self._batch_max))
                self._flow.wait()
            return 0

    def fed(self, items: int, nbytes: int) -> None:
        """A batch is on its way."""
        with self._flow:
            self._items += items
            self._bytes += nbytes
            self._wanted -= 1
            if items:
                self._batch_max = BATCH_BYTES * items // max(1, nbytes)  # if those that follow are as large

    # ---- who takes the outcomes ----------------------------------------------------------------------------------

    def take(self, timeout: float | None) -> list[Piece]:
        """Outcomes, as soon as there are any; none when the run is over, or `timeout` is."""
        with self._flow:
            self._flow.wait_for(lambda: self._out or self.is_over or self.error is not None, timeout)
            out = list(self._out)
            self._out.clear()
            if not out and self.error is not None:
                raise self.error
            return out

    def release(self, piece: Piece) -> bool:
        """Whoever has taken it is through with it; whether there is room for results that was not there before."""
        nbytes = _nbytes(piece)
        with self._flow:
            if self._first is None or piece.first < self._first:
                return False  # of a run that is over
            full = not self.has_room_for_results
            self._items -= piece.items
            self._bytes -= nbytes
            self._results_bytes -= nbytes
            self._flow.notify_all()
            return full and self.has_room_for_results

    # ---- the I/O thread, and whoever begins and ends a run ---------------------------------------------------------

    def begin(self, first: int) -> None:
        """A run begins, with the number `first`."""
        with self._flow:
            self._first = first
            self.is_over = False

    def end(self) -> None:
        """It is over, or to be: whoever waits need not."""
        with self._flow:
            self.is_over = True
            self._flow.notify_all()

    def fail(self, error: BaseException) -> None:
        """Nothing goes on."""
        with self._flow:
            self.error = self.error or error
            self._flow.notify_all()

    def clear(self) -> None:
        """Nothing is on its way any more."""
        with self._flow:
            self._first = None
            self._out.clear()
            self._items = self._bytes = self._results_bytes = 0

    def offer(self, wanted: int) -> None:
        """So many batches would be liked."""
        with self._flow:
            self._wanted = wanted
            if wanted > 0:
                self._flow.notify_all()

    def freed(self, nbytes: int) -> None:
        """So many bytes of inputs are needed no more."""
        with self._flow:
            self._bytes -= nbytes
            self._flow.notify_all()

    def accepted(self, new: list[Piece], out: list[Piece]) -> None:
        """These outcomes have come, and those can be taken."""
        nbytes = sum([_nbytes(piece) for piece in new])
        with self._flow:
            self._bytes += nbytes
            self._results_bytes += nbytes
            self._out.extend(out)
            if out:
                self._flow.notify_all()


def _nbytes(piece: Piece) -> int:
    """What it counts: the payload that it shares with others counts once."""
    return 0 if piece.skip else len(piece.payload)
