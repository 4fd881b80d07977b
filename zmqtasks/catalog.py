"""Functions as those know them who never open them: a number, a name, and bytes."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Function(NamedTuple):
    """A function as its peers know it. `data` is None where the function comes with each call."""

    number: int
    name: str
    data: bytes | None


class Catalog:
    """Functions by number, each of them once: by the hash of its bytes, or by its name where it has none."""

    def __init__(self) -> None:
        self.by_number: dict[int, Function] = {}
        self._by_digest: dict[bytes, Function] = {}
        self._inline: dict[str, Function] = {}  # by name
        self._adopted = 0  # numbers are not given twice

    def adopt(self, name: str, data: bytes | None) -> Function:
        """The function of these bytes; without any, the one of that name whose bytes come with each call."""
        found = self._inline.get(name) if data is None else self._by_digest.get(digest := _digest(data))
        if found is None:
            self._adopted += 1
            found = Function(self._adopted, name, data)
            self.by_number[found.number] = found
            if data is None:
                self._inline[name] = found
            else:
                self._by_digest[digest] = found
        return found

    def drop(self, number: int) -> None:
        """Nobody will name it any more: if it comes again, it has another number."""
        function = self.by_number.pop(number)
        if function.data is None:
            del self._inline[function.name]
        else:
            del self._by_digest[_digest(function.data)]


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
