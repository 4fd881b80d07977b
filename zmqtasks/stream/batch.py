"""Batches: what became of some consecutive inputs, on the way from a child to the sink.

The sink may be reached over a network, and runs no code of anybody's: a batch is MessagePack of three things, and
nothing in it is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec


class Unit(NamedTuple):
    """What became of one input, where that is more than bytes of output: those, what goes to standard error."""

    out: bytes
    err: bytes
    failed: bool


Value = bytes | Unit
"""What became of one input: bytes of output alone, or a `Unit`."""


class Batch(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What became of as many inputs as `outs` has; `errs` and `failed` say more of some, by their place in it."""

    outs: list[bytes]
    errs: dict[int, bytes] = {}
    failed: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.outs)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Batch).decode
_PLAIN = {bytes}


def pack(values: Sequence[Value]) -> bytes:
    """Return what became of some inputs as bytes."""
    if {*map(type, values)} <= _PLAIN:
        return _encode((values,))
    units = [value if type(value) is Unit else Unit(value, b"", False) for value in values]  # type: ignore[arg-type]  # bytes, then
    errs = {place: unit.err for place, unit in enumerate(units) if unit.err}
    return _encode(([unit.out for unit in units], errs, [p for p, unit in enumerate(units) if unit.failed]))


def unpack(data: bytes | bytearray | memoryview) -> Batch:
    """Return what `pack` was given; a `ValueError` for anything that it did not make."""
    try:
        batch = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"no batch of results: {error}") from None
    if not all(0 <= place < len(batch.outs) for places in (batch.errs, batch.failed) for place in places):
        raise ValueError("no batch of results: it speaks of an input that it does not have")
    return batch
