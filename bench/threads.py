"""CPU time and context switches of the threads of a process, from Linux's procfs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SINCE_STATE = slice(11, 13)
"""User and system ticks in `/proc/PID/stat`, counted from the field behind the command's name."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a thread has used: CPU seconds, exact and (user, system) in whole ticks; context switches."""

    cpu_s: float = 0.0
    user_s: float = 0.0
    system_s: float = 0.0
    waits: int = 0
    preemptions: int = 0

    def __sub__(self, other: Usage) -> Usage:
        """Subtract what had been used before."""
        return Usage(
            self.cpu_s - other.cpu_s,
            self.user_s - other.user_s,
            self.system_s - other.system_s,
            self.waits - other.waits,
            self.preemptions - other.preemptions,
        )

    def __add__(self, other: Usage) -> Usage:
        """Add what another has used."""
        return Usage(
            self.cpu_s + other.cpu_s,
            self.user_s + other.user_s,
            self.system_s + other.system_s,
            self.waits + other.waits,
            self.preemptions + other.preemptions,
        )


def _usage(task: Path) -> Usage:
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    user, system = (int(ticks) * TICK_S for ticks in fields[SINCE_STATE])
    status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines() if ":" in line)
    try:
        cpu_s = int((task / "schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        cpu_s = 0.0
    return Usage(
        cpu_s or user + system,
        user,
        system,
        int(status["voluntary_ctxt_switches"]),
        int(status["nonvoluntary_ctxt_switches"]),
    )


def usage_by_thread(pid: int) -> dict[int, Usage]:
    """By native thread id, of all threads that the process has now; empty if there is no such process."""
    found = {}
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return {}
    for task in tasks:
        try:
            found[int(task.name)] = _usage(task)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
