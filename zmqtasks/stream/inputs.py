"""Inputs: what the pipeline is to go through, in batches, read no further than somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, Literal, Protocol

from zmqtasks.errors import BadInputError
from zmqtasks.stream.formats import json_value, jsonl, lines, text_value
from zmqtasks.stream.item import BadInput
from zmqtasks.stream.sources import Source, expand, size_of
from zmqtasks.stream.table import rows

Format = Literal["lines", "jsonl", "csv"]
OnBad = Literal["stop", "skip"]

ITEMS_MAX = 1000
BYTES_MAX = 1 << 18

READERS: dict[Format, Callable[[str, Iterable[bytes]], Iterator[list[Any]]]] = {
    "lines": lines,
    "jsonl": jsonl,
    "csv": rows,
}


class Inputs(Protocol):
    """Items in their order, to be gone through once; how far that is, as far as it is known."""

    @property
    def total(self) -> int | None:
        """How many there are."""

    @property
    def bytes_done(self) -> int:
        """What was read of the files, compressed as they are."""

    @property
    def bytes_total(self) -> int | None:
        """What the files have."""

    def batches(self, items_max: int = ITEMS_MAX) -> Iterator[tuple[int, list[Any]]]:
        """Yield the index of a first item with it and those after it, as soon as they are there.

        Bad inputs raise a `BadInputError` after the items before them, or else are items: `BadInput`s.
        """


class Files:
    """The inputs in files, globs and standard input ("-"); an `UnusableFile` at once if one cannot be read.

    `paths` are those that the sources stand for. A batch is no more than `items_max` items, and as text no longer than
    `bytes_max` and one line.
    """

    total: int | None = None

    def __init__(
        self,
        sources: Sequence[str | PathLike[str]],
        *,
        format: Format = "lines",  # noqa: A002 - as the option is called
        on_bad: OnBad = "stop",
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self.paths = expand(sources)
        self.bytes_total = size_of(self.paths)
        self._sources = [Source(path, bytes_max) for path in self.paths]
        self._reader = READERS[format]
        self._on_bad = on_bad

    @property
    def bytes_done(self) -> int:
        """What was read so far."""
        return sum(source.bytes_done for source in self._sources)

    def batches(self, items_max: int = ITEMS_MAX) -> Iterator[tuple[int, list[Any]]]:
        """As `Inputs`; an `UnusableFile` where a file cannot be read any more."""
        found = (values for source in self._sources for values in self._reader(source.name, source))
        return _batches(found, items_max, self._on_bad)


class Values:
    """The inputs after `:::`, each a line, or with format "jsonl" a JSON value."""

    bytes_done = 0
    bytes_total: int | None = None

    def __init__(
        self,
        texts: Sequence[str],
        *,
        format: Literal["lines", "jsonl"] = "lines",  # noqa: A002 - as the option is called
        on_bad: OnBad = "stop",
    ) -> None:
        value = json_value if format == "jsonl" else text_value
        raws = (text.encode("utf-8", "surrogateescape") for text in texts)  # as the system gave them
        self._values = [value(":::", number, raw) for number, raw in enumerate(raws, 1)]
        self._on_bad = on_bad
        self.total: int | None = len(texts)

    def batches(self, items_max: int = ITEMS_MAX) -> Iterator[tuple[int, list[Any]]]:
        """As `Inputs`."""
        return _batches([self._values], items_max, self._on_bad)


def _batches(found: Iterable[list[Any]], items_max: int, on_bad: OnBad) -> Iterator[tuple[int, list[Any]]]:
    """Cut lists of values to batches, and stop at bad ones if that is wanted."""
    index = 0
    for values in found:
        bad = None
        if on_bad == "stop" and BadInput in {*map(type, values)}:
            place = next(place for place, value in enumerate(values) if type(value) is BadInput)
            bad = values[place]
            values = values[:place]  # noqa: PLW2901 - what came before it
        for at in range(0, len(values), items_max):
            batch = values[at : at + items_max]
            yield index, batch
            index += len(batch)
        if bad is not None:
            raise BadInputError(str(bad))
