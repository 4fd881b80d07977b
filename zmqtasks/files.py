"""Memory files, and their second use.

Fresh pages are dear: 1 MB is written to a new file in 210 us, to one that was written before in 60. So who has made a
file keeps its descriptor, and writes there again once the one reader that it was sent to has let go of it. A reader
says so in the byte behind the data: no message, no waiting, and a reader that died has not said it.

Nobody who may read a file sees it change:

- It comes back from its only reader. Who sends a file twice does not keep it; who passes one on, or maps it, does not
  let go of it. So values that are copied out (`bytes`) come back, and those that are mapped (arrays) do not.
- A fork makes a reader that nobody has counted: what was open in a process at that moment is closed there as it ends,
  neither kept nor let go of.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque

KEPT_MAX = 16  # files that wait for their second use
KEPT_BYTES_MAX = 32 << 20
_WRITE_BYTES_MAX = 1 << 30  # what one write takes
_HELD, _LET_GO = b"\0", b"\1"

_kept: deque[tuple[int, int, bool]] = (
    deque()
)  # descriptor, bytes written, whether somebody has it; the oldest first
_keepers = 0
_counting = threading.Lock()
age = 0  # another one after each fork


def another(*, used: bool) -> int:
    """A file to be filled, one that was used before if that is wanted; -1 if none can be had."""
    if used and (file := _take()) >= 0:
        return file
    try:
        return os.memfd_create("zmqtasks", os.MFD_CLOEXEC)
    except (AttributeError, OSError):  # no descriptor left, or the system forbids it, or knows no such thing
        return -1


def fill(file: int, view: memoryview) -> None:
    """Write the bytes, and behind them that somebody has the file."""
    done = 0
    while done <= view.nbytes:
        part = view[done : done + _WRITE_BYTES_MAX]
        done += os.pwritev(file, [part, _HELD] if done + part.nbytes == view.nbytes else [part], done)


def let_go(file: int, nbytes: int) -> None:
    """Its maker may use it again."""
    os.pwrite(file, _LET_GO, nbytes)


def keep(file: int, nbytes: int, *, sent: bool) -> None:
    """For a second use: at once, or when whoever it was sent to has let go of it; closed if nobody wants it kept."""
    _kept.append((file, nbytes, sent))
    while (
        len(_kept) > (KEPT_MAX if _keepers else 0) or sum([size for _, size, _ in [*_kept]]) > KEPT_BYTES_MAX
    ):
        try:
            os.close(_kept.popleft()[0])
        except IndexError:  # another thread has taken it
            return


def begin_keeping() -> None:
    """Until `end_keeping` files are kept; of several who want it, until the last has ended."""
    global _keepers
    with _counting:
        _keepers += 1


def end_keeping() -> None:
    """Not any more."""
    global _keepers
    with _counting:
        _keepers -= 1
        if not _keepers:
            close_kept()


def close_kept() -> None:
    """Keep none of those that are there."""
    with contextlib.suppress(IndexError):
        while True:
            os.close(_kept.popleft()[0])


def _take() -> int:
    """A kept file that nobody has, or -1."""
    for _ in range(len(_kept)):
        try:
            file, nbytes, sent = _kept.popleft()
        except IndexError:
            break
        if not sent or os.pread(file, 1, nbytes) == _LET_GO:
            return file
        _kept.append((file, nbytes, sent))
    return -1


def _grow_older() -> None:
    global age
    age += 1


def _begin_anew() -> None:
    global _keepers, _counting
    _grow_older()
    _keepers, _counting = 0, threading.Lock()
    close_kept()


# Twice where it goes on: what another thread opens between the first call and the fork is in both processes too.
os.register_at_fork(before=_grow_older, after_in_parent=_grow_older, after_in_child=_begin_anew)
