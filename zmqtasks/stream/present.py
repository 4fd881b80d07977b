"""What an output has already: which indexes, and the inputs that they were made from, eight bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import msgspec

from zmqtasks.errors import InputChanged, UnusableFile
from zmqtasks.stream.item import BadInput, brief, written

_PAGE = 1 << 12  # indexes
_ABSENT = array("Q", bytes(8 * _PAGE))

# An input's text in the output may have gone through other tools: what counts is the value.
_canonical = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder().decode


class Line(msgspec.Struct):
    """A line of an output, as far as it matters here."""

    index: int
    input: msgspec.Raw
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_line = msgspec.json.Decoder(Line).decode


def parsed(path: str, number: int, text: bytes) -> Line:
    """Read a line; an `UnusableFile` if no pipeline wrote it."""
    try:
        line = _line(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnusableFile(f"cannot resume '{path}': line {number} is no result: {error}") from None
    if line.index < 0:
        raise UnusableFile(f"cannot resume '{path}': line {number} is no result: its index is {line.index}")
    return line


class Present:
    """The inputs that an output has results of; in memory proportional to how many they are, not to how long."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._pages: dict[int, array[int]] = {}
        self._count = 0
        self._limit = 0  # beyond the last of them

    def __len__(self) -> int:
        return self._count

    def add(self, number: int, line: Line) -> None:
        """Take in a line, the one with this number; an `UnusableFile` if its index is there."""
        page = self._pages.setdefault(line.index // _PAGE, _ABSENT[:])
        if page[line.index % _PAGE]:
            raise UnusableFile(f"cannot resume '{self.path}': line {number} has the index {line.index} again")
        page[line.index % _PAGE] = _mark(_canonical(_decode(line.input)))
        self._count += 1
        self._limit = max(self._limit, line.index + 1)

    def has(self, index: int, item: Any) -> bool:
        """Whether the item with this index is there; an `InputChanged` if it was another item."""
        page = self._pages.get(index // _PAGE)
        mark = page[index % _PAGE] if page is not None else 0
        if not mark:
            return False
        if mark != _mark(written(item) if type(item) is BadInput else _canonical(item)):
            now = brief(written(item))
            raise InputChanged(
                f"'{self.path}' was made from other inputs: that of index {index} is the first that differs, now {now}"
            )
        return True

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield what `fill` takes elsewhere: 32 KiB for up to 4,096 indexes that are near each other."""
        for number, page in self._pages.items():
            yield number, page.tobytes()

    def fill(self, path: str, pages: Iterable[tuple[int, bytes]]) -> None:
        """Have what another has, and nothing else; its output is called `path` there. Any thread may be asking."""
        filled = {number: array("Q", page) for number, page in pages}
        if any(len(page) != _PAGE or number < 0 for number, page in filled.items()):
            raise ValueError("no pages of an output")
        self.path, self._pages = path, filled
        ranges = list(self.ranges())
        self._count = sum([limit - first for first, limit in ranges])
        self._limit = ranges[-1][1] if ranges else 0

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the indexes that are there, as ranges without their ends."""
        for number in sorted(self._pages):
            page, first = self._pages[number], number * _PAGE
            start = -1
            for place, mark in enumerate((*page, 0)):
                if mark and start < 0:
                    start = place
                elif not mark and start >= 0:
                    yield first + start, first + place
                    start = -1

    def remaining(self, batches: Iterable[tuple[int, list[Any]]]) -> Iterator[tuple[int, list[Any]]]:
        """Yield of batches of items what is not there, cut where something is; an `InputChanged` as `has` has it."""
        count = 0
        for first, items in batches:
            count = first + len(items)
            run: list[Any] = []
            for index, item in enumerate(items, first):
                if not self.has(index, item):
                    run.append(item)
                elif run:
                    yield index - len(run), run
                    run = []
            if run:
                yield count - len(run), run
        if count < self._limit:
            raise InputChanged(
                f"'{self.path}' was made from other inputs: it has {self._limit} of them, and now there are {count}"
            )


def _mark(text: bytes) -> int:
    """A number from 1 on that is another for another text, as good as always."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") or 1
