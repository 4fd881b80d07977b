"""How much more is done with more workers: from one child to one a CPU, with tasks of several lengths."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.contestants import CONTESTANTS, pool_of, why_absent
from bench.record import machine
from bench.tasks import spin

DURATIONS_S = (0.01, 0.001, 0.0001)
WORK_S = 1.0
"""Seconds that each worker has to do."""
WARM_UP_S = 0.1
PIPED_WIDTH = 110

Rates = dict[str, dict[float, dict[int, list[float]]]]
"""By contestant, seconds a task, and workers: tasks a second, one of each round."""


def rate(contestant: str, workers: int, duration_s: float, work_s: float) -> float:
    """Tasks a second of a pool that has seen such tasks before."""
    with pool_of(contestant, workers) as pool:
        for seconds in (WARM_UP_S, work_s):
            tasks = math.ceil(seconds / duration_s) * workers
            start = time.perf_counter()
            pool.collect([pool.submit(spin, duration_s) for _ in range(tasks)])
        return tasks / (time.perf_counter() - start)


def measure(contestants: list[str], counts: list[int], rounds: int, work_s: float) -> Rates:
    """All contestants take turns."""
    rates: Rates = {name: {seconds: {} for seconds in DURATIONS_S} for name in contestants}
    for _ in range(rounds):
        for seconds in DURATIONS_S:
            for workers in counts:
                for name in contestants:
                    found = rate(name, workers, seconds, work_s)
                    rates[name][seconds].setdefault(workers, []).append(found)
    return rates


def show(rates: Rates, console: Console) -> None:
    """A table a length of tasks: how many workers' worth of them is done, and how many a second."""
    for seconds in DURATIONS_S:
        table = Table(
            title=f"tasks of {seconds * 1e3:g} ms: as many of them as so many ideal workers would do"
        )
        table.add_column("workers", justify="right")
        for name in rates:
            table.add_column(name, justify="right")
        for workers in next(iter(rates.values()))[seconds]:
            row = []
            for of in rates.values():
                found = statistics.median(of[seconds][workers])
                row.append(f"{found * seconds:.2f}  ({found:,.0f}/s)")
            table.add_row(str(workers), *row)
        console.print(table)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench scaling", description=__doc__)
    about = machine()
    parser.add_argument(
        "--workers", type=int, default=about["cpus"], help="up to so many (default: the CPUs)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contestants", default="zmqtasks,ProcessPoolExecutor,multiprocessing.Pool")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work; not figures to quote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = parser.parse_args(arguments)
    names = options.contestants.split(",")
    if options.rounds < 1 or options.workers < 1 or not set(names) <= set(CONTESTANTS):
        parser.error(f"--rounds, --workers: at least 1; --contestants: {', '.join(CONTESTANTS)}")
    for name in names:
        if (why := why_absent(name)) is not None:
            parser.error(f"{name}: {why}")
    counts = [1 << power for power in range(options.workers.bit_length())]
    counts += [options.workers] if options.workers not in counts else []
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    rates = measure(names, counts, options.rounds, WORK_S / 10 if options.quick else WORK_S)
    show(rates, console)
    console.print(f"{about['cpus']} CPUs, {about['system']}, {about['python']}.", highlight=False)
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "rates": rates}, indent=1))
    return 0
