"""Functions as those know them who never open them: a number, a name, and bytes."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple


class Function(NamedTuple):
    """A function as its peers know it.

    `data` is None where the function comes with each call, and empty where workers have registered it under its name.
    """

    number: int
    name: str
    data: bytes | None


class Catalog:
    """Functions by number, each of them once: by the hash of its bytes, or by its name where it has none."""

    def __init__(self) -> None:
        self.by_number: dict[int, Function] = {}
        self._by_digest: dict[bytes, Function] = {}
        self._inline: dict[str, Function] = {}  # by name
        self._registered: dict[str, Function] = {}  # by name
        self.names: dict[int, str] = {}  # of those that workers have registered
        self._adopted = 0  # numbers are not given twice

    def adopt(self, name: str, data: bytes | None) -> Function:
        """The function of these bytes; without any, the one of that name that comes with calls, or is registered."""
        place, key = self._place(name, data)
        found = place.get(key)
        if found is None:
            self._adopted += 1
            found = place[key] = Function(self._adopted, name, data)
            self.by_number[found.number] = found
            if place is self._registered:
                self.names[found.number] = name
        return found

    def drop(self, number: int) -> None:
        """Nobody will name it any more: if it comes again, it has another number."""
        function = self.by_number.pop(number)
        place, key = self._place(function.name, function.data)
        del place[key]
        self.names.pop(number, None)

    def _place(self, name: str, data: bytes | None) -> tuple[dict[Any, Function], Any]:
        if data:
            return self._by_digest, hashlib.sha256(data).digest()
        return (self._inline if data is None else self._registered), name
