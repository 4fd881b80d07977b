"""Workflows beside Celery's canvas on Redis, Dask and Ray: `python -m bench workflows [options]`.

Contestants take turns, each started anew for a turn; figures are medians over the rounds, with their range.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import peers
from bench.record import machine
from bench.table import LOAD_MAX, compact
from bench.tasks import lag, noop, stamp, step

WORKERS = 2
MEMBERS = 1_000
LINKS = 1_000
GROUP = 100_000
FANS = 30  # fan-ins a turn, after three that are not counted
PIPED_WIDTH = 110

Figures = dict[str, float]
TITLES = {
    "fan_in_ms": "fan-in of 1,000 and a body, from call to result, ms",
    "lag_p99_ms": "the body's start after its last member, 99th percentile, ms",
    "link_ms": "a chain of 1,000, ms a link",
    "group": "a group of 100,000, tasks/s",
    "singles": "as many single submits and their results, tasks/s",
}


@dataclass(frozen=True, slots=True)
class Canvas:
    """What a contestant does: `fan_in(n)` gives (members, seconds of lag), `chain(n)` n, `group(n)` the values."""

    fan_in: Callable[[int], tuple[int, float]]
    chain: Callable[[int], int]
    group: Callable[[int], list[Any]] | None = None
    singles: Callable[[int], list[Any]] | None = None


def _own(client: Any) -> Canvas:
    zmqtasks: Any = importlib.import_module("zmqtasks")
    chain, chord, group, signature = (
        getattr(zmqtasks, name) for name in ("chain", "chord", "group", "signature")
    )

    def fan_in(members: int) -> tuple[int, float]:
        header = group(signature(stamp) for _ in range(members))
        found: tuple[int, float] = client.run(chord(header, signature(lag))).result()
        return found

    def links(number: int) -> int:
        found: int = client.run(
            chain(signature(step, 0), *(signature(step) for _ in range(number - 1)))
        ).result()
        return found

    def grouped(number: int) -> list[Any]:
        values: list[Any] = client.run(group([signature(noop) for _ in range(number)])).result()
        return values

    def singles(number: int) -> list[Any]:
        return [future.result() for future in [client.submit(noop) for _ in range(number)]]

    return Canvas(fan_in, links, grouped, singles)


@contextmanager
def _embedded() -> Iterator[Canvas]:
    with importlib.import_module("zmqtasks").Client(workers=WORKERS) as client:
        yield _own(client)


@contextmanager
def _brokered() -> Iterator[Canvas]:
    client, end = importlib.import_module("bench.brokered").open_client(WORKERS, curve=True)
    with end:
        yield _own(client)


@contextmanager
def _celery() -> Iterator[Canvas]:
    celery: Any = importlib.import_module("celery")
    app, close = importlib.import_module("bench.peers.celery_redis").open_application(WORKERS)
    tasks = app.tasks

    def fan_in(members: int) -> tuple[int, float]:
        header = [tasks["stamp"].s() for _ in range(members)]
        count, seconds = celery.chord(header)(tasks["lag"].s()).get()
        return count, seconds

    def links(number: int) -> int:
        steps = [tasks["step"].s() for _ in range(number - 1)]
        found: int = celery.chain(tasks["step"].s(0), *steps)().get()
        return found

    try:
        yield Canvas(fan_in, links)
    finally:
        close()


@contextmanager
def _dask() -> Iterator[Canvas]:
    client, close = importlib.import_module("bench.peers.dask_distributed").open_client(WORKERS)

    def fan_in(members: int) -> tuple[int, float]:
        header = [client.submit(stamp, pure=False) for _ in range(members)]
        found: tuple[int, float] = client.submit(lag, header, pure=False).result()
        return found

    def links(number: int) -> int:
        future: Any = 0
        for _ in range(number):
            future = client.submit(step, future, pure=False)
        found: int = future.result()
        return found

    try:
        yield Canvas(fan_in, links)
    finally:
        close()


@contextmanager
def _ray() -> Iterator[Canvas]:
    ray, close = importlib.import_module("bench.peers.ray_local").start(WORKERS)
    one, all_, next_ = ray.remote(stamp), ray.remote(lambda *stamps: lag(list(stamps))), ray.remote(step)

    def fan_in(members: int) -> tuple[int, float]:
        found: tuple[int, float] = ray.get(all_.remote(*[one.remote() for _ in range(members)]))
        return found

    def links(number: int) -> int:
        reference: Any = 0
        for _ in range(number):
            reference = next_.remote(reference)
        found: int = ray.get(reference)
        return found

    try:
        yield Canvas(fan_in, links)
    finally:
        close()


_OPEN: dict[str, tuple[str, Callable[[], Any]]] = {
    "zmqtasks": ("", _embedded),
    "zmqtasks-brokered": ("", _brokered),
    "Celery-Redis": ("celery_redis", _celery),
    "Dask": ("dask_distributed", _dask),
    "Ray": ("ray_local", _ray),
}


def _absent(name: str) -> str | None:
    module = _OPEN[name][0]
    why: str | None = importlib.import_module(f"{peers.__name__}.{module}").absent() if module else None
    return why


def measure(name: str, *, quick: bool) -> Figures:
    """One turn; raises AssertionError where a result is wrong."""
    members, links, number = (100, 100, 5_000) if quick else (MEMBERS, LINKS, GROUP)
    fans = 5 if quick or not name.startswith("zmqtasks") else FANS
    with _OPEN[name][1]() as canvas:
        seconds, lags = [], []
        for turn in range(3 + fans):
            start = time.perf_counter()
            count, late_s = canvas.fan_in(members)
            assert count == members, f"{count} of {members} members"
            if turn >= 3:
                seconds.append(time.perf_counter() - start)
                lags.append(late_s)
        figures = {
            "fan_in_ms": 1e3 * statistics.median(seconds),
            "lag_p99_ms": 1e3 * sorted(lags)[min(len(lags) - 1, int(0.99 * len(lags)))],
        }
        assert canvas.chain(links) == links
        start = time.perf_counter()
        assert canvas.chain(links) == links
        figures["link_ms"] = 1e3 * (time.perf_counter() - start) / links
        for what in ("group", "singles"):
            if (run := getattr(canvas, what)) is not None:
                run(number // 10)
                start = time.perf_counter()
                assert len(run(number)) == number
                figures[what] = number / (time.perf_counter() - start)
    return figures


def main(arguments: list[str]) -> int:
    """Ask all, and print a table; 1 if a measurement failed."""
    parser = argparse.ArgumentParser(prog="python -m bench workflows", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, and roughly how fast")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all contestants (default: 3)")
    parser.add_argument("--contestants", default=",".join(_OPEN), metavar="A,B", help=", ".join(_OPEN))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = parser.parse_args(arguments)
    names = options.contestants.split(",")
    if options.rounds < 1 or not set(names) <= _OPEN.keys():
        parser.error(f"--rounds: at least 1; --contestants: {', '.join(_OPEN)}")
    console, about = Console(), machine()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    absent = {name: why for name in names if (why := _absent(name)) is not None}
    present = [name for name in names if name not in absent]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in present}
    failed: dict[str, str] = {}
    for _ in range(options.rounds):
        for name in present:
            try:
                figures = measure(name, quick=options.quick)
            except Exception as error:  # noqa: BLE001 - whatever a contestant does, the others go on
                failed[name] = f"{type(error).__name__}: {error}"
                continue
            for figure, value in figures.items():
                found[name].setdefault(figure, []).append(value)
    table = Table(
        title=f"workflows, medians of {options.rounds} rounds"
        if options.rounds > 1
        else "workflows, one round"
    )
    table.add_column("figure")
    for name in present:
        table.add_column(name, justify="right")
    for figure, title in TITLES.items():
        row = []
        for name in present:
            values = found[name].get(figure)
            spread = (
                f"\n{compact(min(values))} .. {compact(max(values))}" if values and len(values) > 1 else ""
            )
            row.append(f"[bold]{compact(statistics.median(values))}[/]{spread}" if values else "-")
        table.add_row(title, *row, end_section=True)
    console.print(table)
    console.print(f"{about['cpus']} CPUs, {about['system']}, {about['python']}.", highlight=False)
    if about["load_before"] > LOAD_MAX:
        console.print(
            f"[yellow]The machine was busy before (load {about['load_before']:.1f}): do not trust this.[/]"
        )
    for name, why in (absent | failed).items():
        console.print(f"[red]{name}[/]: {why}", highlight=False)
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "found": found, "failed": failed}, indent=1))
    return 1 if failed else 0
