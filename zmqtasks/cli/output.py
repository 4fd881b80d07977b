"""How a command prints what it found: the same records as a table, as plain lines, or as one JSON document.

A table is for a terminal; elsewhere the same columns are aligned by spaces, whole and without colours.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import typer

__all__ = ["Column", "age", "duration", "json_document", "printable", "record", "records", "size"]

_JUST_NOW_S = 0.0005

# Each unit's seconds and name, and below which number of it it is used: "90 s" says more than "2 min".
_UNITS = (
    (0.001, "ms", 1000),
    (1.0, "s", 120),
    (60.0, "min", 120),
    (3600.0, "h", 48),
    (86400.0, "d", math.inf),
)


class Column(NamedTuple):
    """One column: its title, the key of a record that it shows, how, and whether it gives way where space is short."""

    title: str
    key: str
    show: Callable[[Any], str] = str
    right: bool = False
    cut: bool = False

    def cell(self, record: Mapping[str, Any]) -> str:
        """Return what this column shows of a record, in one line: "-" where there is nothing."""
        value = record.get(self.key)
        return "-" if value is None or value == "" else printable(self.show(value))


def records(
    found: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    *,
    as_json: bool,
    document: Any = None,
    nothing: str = "nothing",
) -> None:
    """Print records, one a line; as JSON a list of them with all that they hold, or `document` where there is more.

    Without any, `nothing` is said on standard error.
    """
    if as_json:
        json_document(found if document is None else document)
    elif not found:
        typer.echo(nothing, err=True)
    elif sys.stdout.isatty():
        _table(columns, found)
    else:
        _lines([[column.title for column in columns], *_cells(columns, found)], columns)


def record(found: Mapping[str, Any], columns: Sequence[Column], *, as_json: bool) -> None:
    """Print one record, a line for each column; as JSON an object with all that it holds."""
    if as_json:
        json_document(found)
        return
    lines = [[f"{column.title}:", column.cell(found)] for column in columns]
    _lines(lines, [Column("", ""), Column("", "")])


def json_document(document: Any) -> None:
    """Print one JSON document. NaN and infinities, which JSON has not, are null; what else it has not is text."""
    packed = msgspec.json.encode(document, enc_hook=str)
    typer.echo(msgspec.json.format(packed, indent=2).decode())


def duration(seconds: float) -> str:
    """Return seconds as people say them, in one unit and about two digits: "120 ms", "3.2 s", "4 min", "5 h", "2 d"."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < _JUST_NOW_S:
        return "0 s"
    number, unit = next((seconds / size, unit) for size, unit, end in _UNITS if round(seconds / size) < end)
    tenths = unit == "s" and round(number, 1) < 10
    return f"{number:.1f} {unit}" if tenths else f"{number:.0f} {unit}"


def size(nbytes: int) -> str:
    """Return bytes as people say them: "300 B", "1.5 kB", "20 MB"."""
    number, unit = float(nbytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            break
        number /= 1000
    return f"{number:.1f} {unit}" if unit != "B" and number < 9.95 else f"{number:.0f} {unit}"


def age(seconds: float) -> str:
    """Return how long ago something was, in seconds, or with a negative number how far off it is."""
    return f"in {duration(-seconds)}" if seconds < 0 else f"{duration(seconds)} ago"


def _cells(columns: Sequence[Column], found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [[column.cell(record) for column in columns] for record in found]


def _lines(lines: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    """Print lines whose cells stand below each other, whatever their characters' width."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        parts = []
        for cell, width, column in zip(line, widths, columns, strict=True):
            space = " " * (width - cell_len(cell))
            parts.append(space + cell if column.right else cell + space)
        typer.echo("  ".join(parts).rstrip())


def _table(columns: Sequence[Column], found: Sequence[Mapping[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, border_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            header_style="dim",
            no_wrap=not column.cut,
        )
    for cells in _cells(columns, found):
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells))
    Console(highlight=False).print(table)


def printable(text: str) -> str:
    """Escape what would move the cursor or break the line: names come from other people's programs."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
