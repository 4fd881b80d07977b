"""A gate that tasks wait at and a test opens. Light: children import it."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Any, Self


class Gate:
    """A named pipe: who reads it waits until `open`; afterwards nobody waits there any more."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "gate")
        self.log = folder / "gate.log"
        self.log.touch()
        os.mkfifo(self.path)
        self._hold = os.open(self.path, os.O_RDWR)

    def open(self) -> None:
        """Let everyone pass."""
        if self._hold >= 0:
            passed = Path(f"{self.path}.passed")
            passed.touch()
            passed.rename(self.path)  # for those that come later
            os.close(self._hold)
            self._hold = -1

    def arrived(self) -> list[str]:
        """The marks of those that came, in their order."""
        return self.log.read_text().splitlines()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()


def note(log: str | Path, mark: Any) -> None:
    """Append a line."""
    with Path(log).open("a", encoding="utf-8") as file:
        file.write(f"{mark}\n")


def wait_at(gate: str, value: Any = None) -> Any:
    """The task: say that it came, wait for the gate, return `value`."""
    note(f"{gate}.log", value)
    Path(gate).read_bytes()
    return value


def work(seconds: float) -> None:
    """What a task has to do that takes so long: it waits for it, as for a disk, for the CPUs are other tests' too."""
    select.select((), (), (), seconds)
