"""Compression by the name of a file: .gz and .zst, read as it comes, and written in pieces that each stand alone.

Zstandard is Python's own from 3.14 on, and before that the package `zstandard`, which `zmqtasks[zstd]` brings.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from zmqtasks.errors import UnusableFile

READ_BYTES = 1 << 14
"""What is read of a compressed file at a time: it may become a thousand times as much."""


class Codec(NamedTuple):
    """How a file is compressed: a new decompressor (of one member or frame), and bytes as a member of their own."""

    decompressor: Callable[[], Any]
    compress: Callable[[bytes], bytes]
    error: type[Exception]


def codec_of(path: str) -> Codec | None:
    """Return how a file of this name is compressed; None if it is not; an `UnusableFile` if it cannot be read here."""
    if path.endswith(".gz"):
        return Codec(lambda: zlib.decompressobj(31), lambda data: zlib.compress(data, 6, 31), zlib.error)
    if path.endswith(".zst"):
        return _zstandard(path)
    return None


def inflated(blocks: Iterable[bytes], codec: Codec) -> Iterator[bytes]:
    """Yield what compressed blocks hold, member after member; an `EOFError` where one is cut off."""
    inflater: Any = None
    for block in blocks:
        while block:
            if inflater is None:
                if not block.strip(b"\0"):  # padding, as of tapes
                    break
                inflater = codec.decompressor()
            try:
                if data := inflater.decompress(block):
                    yield data
            except codec.error as error:
                raise EOFError(str(error)) from None
            block = b""  # noqa: PLW2901 - what is left of it
            if inflater.eof:
                block, inflater = inflater.unused_data, None  # noqa: PLW2901
    if inflater is not None:
        raise EOFError("it ends within compressed data")


def whole_bytes(blocks: Iterable[bytes], codec: Codec) -> int:
    """How many bytes of compressed blocks are whole members; an `EOFError` where something else follows one.

    A member that is cut off at the end is not counted, nor is padding.
    """
    inflater: Any = None
    at = end = 0
    for block in blocks:
        at += len(block)
        while block:
            if inflater is None:
                if not block.strip(b"\0"):
                    break
                inflater = codec.decompressor()
            try:
                inflater.decompress(block)
            except codec.error as error:
                raise EOFError(f"after {end} bytes: {error}") from None
            block = b""  # noqa: PLW2901 - what is left of it
            if inflater.eof:
                block, inflater = inflater.unused_data, None  # noqa: PLW2901
                end = at - len(block)
    return end


def _zstandard(path: str) -> Codec:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return Codec(zstd.ZstdDecompressor, zstd.compress, zstd.ZstdError)
    try:
        import zstandard
    except ImportError:
        raise UnusableFile(f"'{path}' needs the package zstandard: pip install 'zmqtasks[zstd]'") from None
    return Codec(
        lambda: zstandard.ZstdDecompressor().decompressobj(),
        lambda data: zstandard.ZstdCompressor().compress(data),
        zstandard.ZstdError,
    )
