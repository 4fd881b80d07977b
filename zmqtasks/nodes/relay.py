"""What tasks print, where the caller's `sys.stdout` or `sys.stderr` is not this process's own descriptor: a notebook.

Elsewhere children write to the descriptors that they inherit, and nothing passes through here.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys

_CHUNK_BYTES = 64 << 10


class Relay:
    """The children's descriptor 1 or 2 is a pipe's end, `theirs`; what comes out goes to `sys.stdout` or its twin."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._mine, self.theirs = os.pipe()
        os.set_blocking(self._mine, False)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def fileno(self) -> int:
        """Readable when something was printed."""
        return self._mine

    def pump(self) -> None:
        """Hand on what is there."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._mine, _CHUNK_BYTES):
                with contextlib.suppress(Exception):  # whatever the user's stream does
                    stream = getattr(sys, self._name)
                    stream.write(self._decode(data))
                    stream.flush()

    def close(self) -> None:
        """The children are gone: the last words."""
        self.pump()
        os.close(self._mine)
        os.close(self.theirs)


def relays() -> tuple[Relay | None, Relay | None]:
    """For standard output and standard error: a relay, or None where children can write to what they inherit."""
    out, err = (None if _is_own(name, file) else Relay(name) for name, file in (("stdout", 1), ("stderr", 2)))
    return out, err


def _is_own(name: str, file: int) -> bool:
    stream = getattr(sys, name)
    if stream is None:  # there is none, and nobody to relay to
        return True
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.fstat(file))
    except (OSError, ValueError, AttributeError):  # io.UnsupportedOperation is both of the first
        return False
