"""How many CPUs this process may use: its affinity, and below that what its control groups grant it.

A container with `--cpus 2` on a machine of 64 sees 64 CPUs and gets the time of two.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_PROCESS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def cpus(process: Path = _PROCESS, mount: Path = _MOUNT) -> int:
    """The number of CPUs, 1 or more; part of one counts as one.

    `process` lists the control groups of this process, which lie below `mount`.
    """
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([number, *(math.ceil(quota) for quota in _quotas(process, mount))]))


def _quotas(process: Path, mount: Path) -> Iterator[float]:
    """The CPU time a second that each control group around this process grants it."""
    for group, version in _groups(process, mount):
        try:
            if version == 2:
                quota, period = (group / "cpu.max").read_text().split()
            else:
                quota, period = (
                    (group / f"cpu.cfs_{what}_us").read_text().strip() for what in ("quota", "period")
                )
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)
        except (
            OSError,
            ValueError,
            ZeroDivisionError,
        ):  # the outermost has none, nor has one without the controller
            continue


def _groups(process: Path, mount: Path) -> Iterator[tuple[Path, int]]:
    """The folders of the control groups of this process, with the version, from its own up to the outermost.

    In a container the path may be as the machine sees it: what is not there is passed over, and its top is `mount`.
    """
    try:
        lines = process.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        parts = [part for part in path.split("/") if part not in ("", "..")]
        if not controllers:
            tops = [(mount, 2), (mount / "unified", 2)]
        elif "cpu" in controllers.split(","):
            tops = [(mount / name, 1) for name in dict.fromkeys((controllers, "cpu"))]
        else:
            continue
        for top, version in tops:
            for depth in range(len(parts), -1, -1):
                yield top.joinpath(*parts[:depth]), version
