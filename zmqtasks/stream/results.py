"""Results: the file, or standard output, that lines are appended to.

What `write` was given is with the system when it returns: it survives the end of this process, however that ends. A
write that was torn all the same, as by a full disk, leaves a line without an end, which is cut when it is resumed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import IO, Self

import msgspec

from zmqtasks.errors import OutputFailed, UnusableFile
from zmqtasks.stream.compression import READ_BYTES, codec_of, inflated, whole_bytes
from zmqtasks.stream.present import Line, Present, parsed

_STDOUT = 1
KEPT_LINES = 10_000  # that are copied at a time


class Output:
    """Where results go: a path, or None or "-" for standard output. `ordered`: in the order of their indexes.

    A file that is there is refused, unless it is to be replaced (`overwrite`) or added to: `resume` keeps what it has,
    `resume_failed` all but the failures. `present` has what was kept, `failed` is how many failures are among
    it, `taken_out` how many were, `cut` how many bytes of a torn line went, `disorder` why it cannot be gone on with in
    order, if so. An `UnusableFile` for what is in the way.

    A compressed file is written as one member (of gzip) or frame (of Zstandard) a write, which other programs read as
    one file. What is torn and cut off there is the last of those, whatever lines were in it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        overwrite: bool = False,
        resume: bool = False,
        resume_failed: bool = False,
        ordered: bool = False,
    ) -> None:
        self.path = "-" if path is None else os.fspath(path)
        self.present = Present(self.path)
        self.failed = self.cut = self.taken_out = 0
        self.disorder = ""
        self._ordered = ordered
        self._codec = None if self.path == "-" else codec_of(self.path)
        resumes = resume or resume_failed
        if resumes and self.path == "-":
            raise UnusableFile("to resume needs an output file: -o FILE")
        self._is_file = False
        if self.path == "-":
            self._file = _STDOUT
            return
        self._file = self._opened(may_exist=overwrite or resumes)
        try:
            self._is_file = stat.S_ISREG(os.fstat(self._file).st_mode)  # and no pipe or device
            if self._is_file:
                self._lock()
            if resumes:
                self._resume(without_failed=resume_failed)
            elif self._is_file:
                os.ftruncate(self._file, 0)
        except BaseException:
            self.close()
            raise

    @property
    def can_be_resumed(self) -> bool:
        """Whether what was written can be gone on with."""
        return self._is_file

    @property
    def is_compressed(self) -> bool:
        """Whether what is written to it is."""
        return self._codec is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write(self, lines: bytes) -> None:
        """Append whole lines; an `OutputFailed` where that fails, a `BrokenPipeError` if nobody reads them."""
        left = memoryview(self._codec.compress(lines) if self._codec else lines)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            name = "standard output" if self.path == "-" else f"'{self.path}'"
            raise OutputFailed(f"cannot write {name}: {error.strerror}") from None

    def close(self) -> None:
        """Let go of the file."""
        if self._file not in (_STDOUT, -1):
            os.close(self._file)
            self._file = -1

    def _opened(self, *, may_exist: bool) -> int:
        """Open the file, which is made if it is not there."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            try:
                return os.open(self.path, flags if may_exist else flags | os.O_EXCL, 0o666)
            except FileExistsError:
                if os.path.isfile(self.path):  # noqa: PTH113 - a text
                    raise UnusableFile(
                        f"'{self.path}' is there: --resume goes on with it, --overwrite replaces it"
                    ) from None
                return os.open(self.path, flags)  # a pipe, or a link to nowhere
        except UnusableFile:
            raise
        except OSError as error:
            raise UnusableFile(f"cannot write '{self.path}': {error.strerror}") from None

    def _lock(self) -> None:
        """Be the only run that writes to the file, as long as it is open."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnusableFile(f"another run writes to '{self.path}'") from None

    def _resume(self, *, without_failed: bool) -> None:
        """See what the file has, and make it end after a line."""
        if not self._is_file:
            raise UnusableFile(f"cannot resume '{self.path}', which is no file")
        end = self._whole_bytes()
        self.cut = os.fstat(self._file).st_size - end
        for number, text in enumerate(self._texts(end), 1):
            line = parsed(self.path, number, text)
            if without_failed and line.error is not msgspec.UNSET:
                self.taken_out += 1
            else:
                self._keep(number, line)
        if self.taken_out:
            self._in_no_order(f"{self.taken_out} of it are to be done again")
        if self.taken_out:
            self._take_out(end)
        elif self.cut:
            os.ftruncate(self._file, end)

    def _whole_bytes(self) -> int:
        """How much of the file is there before what is torn."""
        with open(self.path, "rb") as file:  # noqa: PTH123 - a text
            if self._codec is not None:
                try:
                    return whole_bytes(_blocks(file), self._codec)
                except EOFError as error:
                    raise UnusableFile(f"cannot resume '{self.path}': it is damaged {error}") from None
            at = file.seek(0, os.SEEK_END)
            while at:
                start = max(0, at - READ_BYTES)
                file.seek(start)
                if (found := file.read(at - start).rfind(b"\n")) >= 0:
                    return start + found + 1
                at = start
            return 0

    def _texts(self, end: int) -> Iterator[bytes]:
        """The lines of so many of its bytes."""
        with open(self.path, "rb") as file:  # noqa: PTH123 - a text
            blocks = _blocks(file, end)
            rest: list[bytes] = []
            for block in inflated(blocks, self._codec) if self._codec is not None else blocks:
                for text in BytesIO(block):
                    rest.append(text)
                    if text.endswith(b"\n"):
                        yield b"".join(rest)
                        rest.clear()
            if rest:
                raise UnusableFile(
                    f"cannot resume '{self.path}': its last line is torn, and is compressed with those before it"
                )

    def _keep(self, number: int, line: Line) -> None:
        if line.index != len(self.present) + self.taken_out:
            self._in_no_order(f"line {number} has the index {line.index}")
        self.present.add(number, line)
        self.failed += line.error is not msgspec.UNSET

    def _in_no_order(self, reason: str) -> None:
        self.disorder = self.disorder or f"cannot keep the order of '{self.path}': {reason} (--unordered)"
        if self._ordered:
            raise UnusableFile(self.disorder)

    def _take_out(self, end: int) -> None:
        """Put a file without failures in the place of this one; until it is whole, this one is there."""
        path = os.path.realpath(self.path)  # what a link leads to is replaced, not the link
        beside = f"{path}.resumed"
        old = self._file
        try:
            with open(beside, "wb") as kept:  # noqa: PTH123 - a text
                fcntl.flock(kept, fcntl.LOCK_EX)  # before it has the name that others look at
                good = (
                    text
                    for number, text in enumerate(self._texts(end), 1)
                    if parsed(path, number, text).error is msgspec.UNSET
                )
                while lines := b"".join(islice(good, KEPT_LINES)):
                    kept.write(self._codec.compress(lines) if self._codec is not None else lines)
                kept.flush()
                os.fchmod(kept.fileno(), stat.S_IMODE(os.fstat(old).st_mode))
                os.fsync(kept.fileno())
                os.rename(beside, path)  # noqa: PTH104 - a text
                self._file = fcntl.fcntl(kept, fcntl.F_DUPFD_CLOEXEC, 0)
        except OSError as error:
            raise UnusableFile(f"cannot take the failures out of '{self.path}': {error.strerror}") from None
        os.close(old)


def _blocks(file: IO[bytes], end: int | None = None) -> Iterator[bytes]:
    """Read a file, or so much of it."""
    left = READ_BYTES if end is None else end
    while left and (block := file.read(min(READ_BYTES, left))):
        left -= 0 if end is None else len(block)
        yield block
