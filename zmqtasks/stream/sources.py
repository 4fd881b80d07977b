"""Sources: files, globs and standard input as blocks of bytes, decompressed on the way.

A block is what is there: a slow input such as `tail -f` is not kept waiting until a block is full.
"""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from os import PathLike

from zmqtasks.errors import BadInputError, UnusableFile
from zmqtasks.stream.compression import READ_BYTES, codec_of, inflated

STDIN = "-"
_BOM = b"\xef\xbb\xbf"  # which some editors put before UTF-8


def expand(sources: Sequence[str | PathLike[str]]) -> list[str]:
    """Return the files that sources name, the matches of a glob sorted; an `UnusableFile` for the first that is none.

    What exists under a name with a * in it is that file, and no glob.
    """
    found: list[str] = []
    for given in sources:
        source = os.fspath(given)
        if source == STDIN:
            if STDIN in found:
                raise UnusableFile("standard input ('-') can be read once only")
            found.append(source)
        elif os.path.lexists(source) or not glob.has_magic(source):
            found.append(source)
        else:
            matches = glob.glob(source, recursive=True)  # noqa: PTH207 - names stay as they were written
            files = sorted(match for match in matches if not os.path.isdir(match))  # noqa: PTH112 - a text
            if not files:
                raise UnusableFile(f"no file matches '{source}'")
            found += files
    for path in found:
        if path != STDIN:
            if os.path.isdir(path):  # noqa: PTH112 - a text
                raise UnusableFile(f"'{path}' is a directory: name what is in it, as '{path.rstrip('/')}/*'")
            if not os.access(path, os.R_OK):  # said before anything is done, not after hours
                raise UnusableFile(f"cannot read '{path}': {_why_not(path)}")
        codec_of(path)
    return found


def size_of(paths: Sequence[str]) -> int | None:
    """Return how many bytes files have together; None if one of them is a pipe or the like."""
    total = 0
    for path in paths:
        try:
            status = os.fstat(0) if path == STDIN else os.stat(path)  # noqa: PTH116 - a text
        except OSError:  # said where it is read
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        total += status.st_size
    return total


class Source:
    """One file: going through it gives its bytes, without a byte order mark, in blocks of `block_bytes` at most.

    `bytes_done` is how much was read of it, compressed as it may be.
    """

    def __init__(self, path: str, block_bytes: int) -> None:
        self.path = path
        self.bytes_done = 0
        self._block_bytes = block_bytes

    @property
    def name(self) -> str:
        """What it is called in complaints."""
        return "standard input" if self.path == STDIN else self.path

    def __iter__(self) -> Iterator[bytes]:
        """Yield blocks as they come; an `UnusableFile` if it cannot be read, a `BadInputError` where it is damaged."""
        codec = codec_of(self.path)
        size = self._block_bytes
        blocks = self._read(READ_BYTES if codec else size)
        mark: bytes | None = b""
        try:
            for block in inflated(blocks, codec) if codec else blocks:
                if mark is not None:
                    mark += block
                    if len(mark) < len(_BOM) and _BOM.startswith(mark):
                        continue
                    block, mark = mark.removeprefix(_BOM), None  # noqa: PLW2901 - without it
                if len(block) <= size:
                    yield block
                else:
                    yield from (block[at : at + size] for at in range(0, len(block), size))
            if mark:
                yield mark
        except EOFError as error:
            raise BadInputError(f"cannot read '{self.path}' to its end: {error}") from None
        except OSError as error:
            raise UnusableFile(f"cannot read '{self.name}': {error.strerror}") from None
        finally:
            blocks.close()

    def _read(self, size: int) -> Generator[bytes, None, None]:
        file = 0 if self.path == STDIN else os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while block := os.read(file, size):
                self.bytes_done += len(block)
                yield block
        finally:
            if self.path != STDIN:
                os.close(file)


def _why_not(path: str) -> str:
    try:
        os.stat(path)  # noqa: PTH116 - a text
    except OSError as error:
        return str(error.strerror)
    return os.strerror(errno.EACCES)
