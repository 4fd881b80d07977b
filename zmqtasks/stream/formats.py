r"""Formats: blocks of bytes as values, or as what is said of those that are none.

Text is UTF-8, strictly: a line that is not would come out changed, for the output is JSON and has no other bytes; what
is in another encoding is better converted first (`iconv`) than guessed at. Lines end at \n or \r\n and come without
it; a last line needs no end. No record is longer than `RECORD_BYTES_MAX`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from zmqtasks.stream.item import BadInput

RECORD_BYTES_MAX = 32 << 20
"""The longest line, or CSV row with the line ends in it: a file without any would be held in memory."""

DEPTH_MAX = 200
"""How deep a JSON value may be nested: pickle, which takes it to the workers, gives up at twice that."""

_RAW_BYTES_MAX = 1 << 10  # what is shown of a line that is too long
_decode_json = msgspec.json.Decoder().decode


class Chunk(NamedTuple):
    """Whole lines as they were read, from the one with the number `line` on; or the start of one that is too long."""

    line: int
    text: bytes
    is_cut: bool = False


def chunks(blocks: Iterable[bytes]) -> Iterator[Chunk]:
    """Yield the whole lines of each block as soon as it is there, and at the end a last one without an end."""
    line = 1
    begun: list[bytes] = []  # of the line whose end has not come
    size = 0
    too_long = False
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if not end:
            if not too_long:
                begun.append(block)
                size += len(block)
                if size > RECORD_BYTES_MAX:
                    yield Chunk(line, b"".join(begun)[:_RAW_BYTES_MAX], is_cut=True)
                    begun, too_long = [], True
            continue
        text = block[:end]
        if too_long:
            text = text.partition(b"\n")[2]
            line += 1
        elif begun:
            text = b"".join((*begun, text))
        begun = [block[end:]] if end < len(block) else []
        size = len(block) - end
        too_long = False
        if text:
            yield Chunk(line, text)
            line += text.count(b"\n")
    if begun:
        yield Chunk(line, b"".join(begun))


def lines(name: str, blocks: Iterable[bytes]) -> Iterator[list[Any]]:
    """Yield lines as text."""
    for chunk in chunks(blocks):
        if chunk.is_cut:
            yield [too_long(name, chunk)]
            continue
        try:
            text = chunk.text.decode()
        except UnicodeDecodeError:
            raws = _split(chunk.text.replace(b"\r\n", b"\n"))
            yield [text_value(name, number, raw) for number, raw in enumerate(raws, chunk.line)]
            continue
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        found = text.split("\n")
        if not found[-1]:
            found.pop()
        yield found


def jsonl(name: str, blocks: Iterable[bytes]) -> Iterator[list[Any]]:
    """Yield a JSON value a line; blank lines are nothing."""
    for chunk in chunks(blocks):
        if chunk.is_cut:
            yield [too_long(name, chunk)]
            continue
        raws = _split(chunk.text)
        if max(map(len, raws)) <= 2 * DEPTH_MAX:  # none of them can be too deep
            try:
                yield [*map(_decode_json, raws)]
                continue
            except (msgspec.MsgspecError, UnicodeDecodeError):
                pass
        numbered = enumerate(raws, chunk.line)
        yield [json_value(name, number, raw) for number, raw in numbered if raw.strip()]


def _split(text: bytes) -> list[bytes]:
    found = text.split(b"\n")
    if not found[-1]:
        found.pop()
    return found


def too_long(name: str, chunk: Chunk) -> BadInput:
    """Return what is said of a chunk that is cut."""
    return BadInput(name, chunk.line, f"longer than {RECORD_BYTES_MAX >> 20} MiB", chunk.text)


def text_value(name: str, number: int, raw: bytes) -> str | BadInput:
    """Return a line as text."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return BadInput(name, number, _not_utf8(error), raw)


def json_value(name: str, number: int, raw: bytes) -> Any:
    """Return a line as the JSON value that it is, or a `BadInput`."""
    try:
        value = _decode_json(raw)
    except UnicodeDecodeError as error:
        return BadInput(name, number, _not_utf8(error), raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        return BadInput(name, number, f"no JSON: {error}", raw)
    if raw.count(b"[") + raw.count(b"{") > DEPTH_MAX and _is_deep(value):
        return BadInput(name, number, f"nested more than {DEPTH_MAX} deep", raw)
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [part for whole in level for part in (whole.values() if type(whole) is dict else whole)]
        level = [part for part in level if type(part) in (dict, list)]
        if not level:
            return False
    return True


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"no UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}"
