"""A page that a host shares with its children: each writes there what it is running.

After a crash the host knows which task of a batch was running, and blames no other. Three words a child: the ordinal
of the task that began last (-1: none), the item of its span, and since when, in nanoseconds of the monotonic clock (0:
it has no time limit, or is through). Writing one costs 0.04 us a task, a message 5 us.
"""

from __future__ import annotations

import mmap
import os
from time import monotonic_ns

CHILDREN_MAX = 4096
_WORDS = 3
ORDINAL, ITEM, SINCE = range(_WORDS)
_WORD_BYTES = 8
_BYTES = CHILDREN_MAX * _WORDS * _WORD_BYTES


def make() -> int:
    """A descriptor of a fresh page."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("zmqtasks-claims", os.MFD_CLOEXEC)
    else:
        import tempfile

        with tempfile.TemporaryFile() as unnamed:
            file = os.dup(unnamed.fileno())
    os.ftruncate(file, _BYTES)
    return file


def begin(claim: memoryview, ordinal: int, item: int = 0) -> None:
    """Write that a task with a time limit begins now.

    Whoever reads a time and, after it, the ordinal and the item has all three of the same task, or of a task without a
    limit.
    """
    claim[SINCE] = 0
    claim[ITEM] = item
    claim[ORDINAL] = ordinal
    claim[SINCE] = monotonic_ns()


class Claims:
    """The page, by child."""

    def __init__(self, file: int) -> None:
        self._page = mmap.mmap(file, _BYTES)
        self._words = memoryview(self._page).cast("q")

    def of(self, index: int) -> memoryview:
        """The words of child `index`: ordinal, item, since."""
        return self._words[index * _WORDS : (index + 1) * _WORDS]

    def close(self) -> None:
        """Give the page back; the words of all children were released before."""
        self._words.release()
        self._page.close()
