"""Tables: CSV as a dict a row, by the names that its first row has.

Quoted fields may have line ends. What Python's reader would guess at (text after a closing quote, a quote that nothing
closes) is a bad input, and so is a row of more or fewer fields than names: to guess is to change data. A quote that
nothing closes costs its own line: the next one is read as a row again.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from zmqtasks.errors import BadInputError
from zmqtasks.stream.formats import RECORD_BYTES_MAX, chunks, too_long
from zmqtasks.stream.item import BadInput

_UNCLOSED = "unexpected end of data"  # as the reader calls it, in every version


def rows(name: str, blocks: Iterable[bytes]) -> Iterator[list[Any]]:
    """Yield the rows of CSV; a `BadInputError` where the first is no header. Blank lines are nothing."""
    table = _Table(name)
    for chunk in chunks(blocks):
        if chunk.is_cut:
            yield [*table.read(b"", is_last=True), too_long(name, chunk)]
            table.line = chunk.line + 1
        else:
            yield table.read(chunk.text, is_last=False)
    yield table.read(b"", is_last=True)


class _Table:
    """A table as far as it was read: `line` is the number of the next line, `_begun` a row that has not ended yet."""

    def __init__(self, name: str) -> None:
        self.line = 1
        self._name = name
        self._names: list[str] = []
        self._begun = b""

    def read(self, text: bytes, *, is_last: bool) -> list[Any]:
        """Return the rows that end in these lines, after those before them."""
        data = self._begun + text
        is_last = is_last or len(data) > RECORD_BYTES_MAX
        try:
            decoded, is_text = data.decode(), True
        except UnicodeDecodeError:
            decoded, is_text = data.decode("utf-8", "surrogateescape"), False
        ends = decoded.split("\n")
        lines = [line + "\n" for line in ends[:-1]] + ends[-1:]
        limit = csv.field_size_limit(RECORD_BYTES_MAX)  # it is the process's, and others may use it
        try:
            values, read = self._rows(lines, is_text=is_text, is_last=is_last)
        finally:
            csv.field_size_limit(limit)
        self._begun = "".join(lines[read:]).encode("utf-8", "surrogateescape")
        self.line += min(read, len(ends) - 1)
        return values

    def _rows(self, lines: list[str], *, is_text: bool, is_last: bool) -> tuple[list[Any], int]:
        """Return the rows in these lines, and how many lines they are."""
        values: list[Any] = []
        start = 0  # of the row that is read
        while start < len(lines):
            reader, first = csv.reader(islice(lines, start, None), strict=True), start
            try:
                for fields in reader:
                    end = first + reader.line_num
                    if not self._names:
                        self._learn(start, fields)
                    elif len(fields) == len(self._names) and (is_text or _is_text(fields)):
                        values.append(dict(zip(self._names, fields, strict=True)))
                    elif fields:
                        values.append(self._bad(start, lines[start:end], self._fault(fields)))
                    start = end
                break
            except csv.Error as error:
                if _UNCLOSED not in str(error):
                    end, reason = first + reader.line_num, f"no CSV: {error}"
                elif is_last:
                    end, reason = start + 1, "no CSV: a quote that nothing closes"
                else:
                    return values, start
                values.append(self._bad(start, lines[start:end], reason))
                start = end
        return values, len(lines)

    def _learn(self, place: int, fields: list[str]) -> None:
        """Take the first row that is not blank as the names."""
        twice = [name for name in fields if fields.count(name) > 1]
        if twice or not _is_text(fields):
            why = f"the column {twice[0]!r} is there twice" if twice else "no UTF-8"
            raise BadInputError(f"{self._name}, line {self.line + place}: {why}")
        self._names = fields

    def _fault(self, fields: list[str]) -> str:
        if len(fields) != len(self._names):
            return f"{len(fields)} fields where the header has {len(self._names)}"
        return "no UTF-8"

    def _bad(self, place: int, lines: Sequence[str], reason: str) -> BadInput:
        raw = "".join(lines).removesuffix("\n").encode("utf-8", "surrogateescape")
        return BadInput(self._name, self.line + place, reason, raw)


def _is_text(fields: list[str]) -> bool:
    """Whether all of it was UTF-8."""
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return False
    return True
