"""Processes with a mark in their environment, to find whatever a program has left behind, and its files."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

MARK = "ZMQTASKS_TEST_MARK"


def marked(mark: str) -> list[psutil.Process]:
    """Return all processes with that mark in their environment, the dead but unreaped left out."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def names_in(folder: str | Path) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}
