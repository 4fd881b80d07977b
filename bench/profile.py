"""Where a task's microseconds go: CPU time of each thread of the client and its children, for single no-ops.

Wall time a task says how fast the pool is, CPU time a task why: the busiest thread (or, where the threads of
a process share a GIL, the busiest process) sets the pace. Read from procfs, hence Linux only.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil
from rich.table import Table

from bench import sampling
from bench.contestants import Pool, pool_of, why_absent
from bench.questions.singles import burst
from bench.threads import Usage, usage_by_thread

if TYPE_CHECKING:
    from rich.console import Console

BURST = 10_000

Usages = dict[tuple[int, int], Usage]
"""By process id and native thread id."""


def load(pool: Pool, tasks: int) -> None:
    """Single no-op submits in bursts of 10,000, that many tasks in all."""
    for _ in range(max(1, tasks // BURST)):
        burst(pool, BURST)


def _snapshot(pids: list[int]) -> Usages:
    return {(pid, tid): usage for pid in pids for tid, usage in usage_by_thread(pid).items()}


def _names(pids: list[int]) -> dict[tuple[int, int], str]:
    """Name the threads of this process as `threading` does."""
    return {(pids[0], thread.native_id or 0): thread.name for thread in threading.enumerate()}


def _add(table: Table, who: str, usage: Usage, tasks: int, *, style: str = "") -> None:
    split_s = usage.user_s + usage.system_s
    system = f"{100 * usage.system_s / split_s:.0f} %" if split_s else "-"
    table.add_row(
        who,
        f"{usage.cpu_s / tasks * 1e6:.2f}",
        system,
        f"{usage.waits / tasks * 1000:.1f}",
        f"{usage.preemptions / tasks * 1000:.1f}",
        style=style,
    )


def _show(console: Console, title: str, pids: list[int], spent: Usages, tasks: int) -> None:
    table = Table(title=title)
    table.add_column("where")
    for heading in ("CPU, us a task", "in the kernel", "waits / 1,000 tasks", "preempted / 1,000 tasks"):
        table.add_column(heading, justify="right")
    names = _names(pids)
    total = Usage()
    for place, pid in enumerate(pids):
        of_process = {tid: usage for (owner, tid), usage in spent.items() if owner == pid}
        whole = sum(of_process.values(), Usage())
        total += whole
        who = f"child {place}" if place else "client"
        _add(table, who if whole.cpu_s else f"{who} (idle)", whole, tasks, style="bold")
        if not whole.cpu_s:
            continue
        for tid, usage in sorted(of_process.items(), key=lambda item: -item[1].cpu_s):
            if len(of_process) > 1:
                native = "its first thread" if tid == pid else "another thread"
                _add(table, "  " + names.get((pid, tid), native), usage, tasks)
    table.add_section()
    _add(table, "together", total, tasks, style="bold")
    console.print(table)


def run(contestant: str, console: Console, *, quick: bool) -> int:
    """Print the profile of one contestant, then what py-spy sees if installed; 1 if nothing can be seen."""
    absent = why_absent(contestant)
    if absent or not sys.platform.startswith("linux"):
        console.print(f"no profile of {contestant}: {absent or 'it needs procfs'}")
        return 1
    tasks = 20_000 if quick else 300_000
    with pool_of(contestant) as pool:
        load(pool, BURST)
        pids = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
        before, start = _snapshot(pids), time.perf_counter()
        load(pool, tasks)
        wall_s = time.perf_counter() - start
        after = _snapshot(pids)
        spent = {key: usage - before.get(key, Usage()) for key, usage in after.items()}
        title = f"{contestant}: {tasks / wall_s:,.0f} tasks/s, {wall_s / tasks * 1e6:.2f} us wall a task"
        _show(console, title, pids, spent, tasks)
    return sampling.run(contestant, console, tasks / wall_s)
