"""What `zmqtasks demo` does: a real workload on this machine, in seconds, and the proof that its result is right.

Every file of the running Python's standard library is parsed by the workers of an embedded `Client`, with `--broker`
by two workers of a broker, with `--pipeline` by those of a `Ventilator`, and what they found is reduced to a report.
Then one process does the same again, with the same functions: that gives the speed-up, and both reports must be equal.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import typer
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from zmqtasks import Client, Ventilator
from zmqtasks.cli.own_broker import own_broker
from zmqtasks.cli.stdlib_report import FileReport, Report, analyse, merge, python_files
from zmqtasks.nodes.cpus import cpus
from zmqtasks.progress import meter, progress_bar

_WIDTH_MAX = 80
_BAR_WIDTH = 16
_NODES = 2  # the workers of a broker of our own


class Workload(NamedTuple):
    """The files to parse, and with how many children.

    These are a pipeline's, or `nodes` workers of a broker have them, or with 0 an embedded client.
    """

    root: Path
    title: str
    paths: list[Path]
    size: int
    workers: int
    nodes: int = 0
    is_pipeline: bool = False

    @property
    def who(self) -> str:
        """Who does it in parallel."""
        if self.nodes:
            return f"a broker, {self.nodes} workers of {self.workers // self.nodes}"
        workers = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        return f"a pipeline, {workers}" if self.is_pipeline else workers

    def __str__(self) -> str:
        return f"{self.title}: {len(self.paths):,} files, {self.size / 1e6:.1f} MB"


class Pass(NamedTuple):
    """One pass over all files: what it found, and its wall time in seconds."""

    report: Report
    seconds: float


class Face(Protocol):
    """How the demo speaks on standard output: before the work, after it, and once it is checked."""

    def open(self, work: Workload) -> None:
        """Say what is about to be done."""

    def report(self, report: Report) -> None:
        """Show what the workers found."""

    def verdict(self, work: Workload, parallel: Pass, serial: Pass) -> None:
        """Show both times, and whether both passes found the same."""


def demonstrate(
    path: Path | None, workers: int | None, *, broker: bool, pipeline: bool, as_json: bool
) -> bool:
    """Do all of it, and say whether both passes have counted the same."""
    work = _workload(path, workers, _NODES if broker else 0)._replace(is_pipeline=pipeline)
    face = _Json() if as_json else _Tables() if sys.stdout.isatty() else _Lines()
    face.open(work)
    parallel = _in_parallel(work)
    face.report(parallel.report)
    serial = _in_one_process(work)
    face.verdict(work, parallel, serial)
    return parallel.report == serial.report


def _workload(path: Path | None, workers: int | None, nodes: int) -> Workload:
    """Find the files, and read each once, so that neither pass pays for the disk."""
    root = Path(path or sysconfig.get_path("stdlib")).resolve()
    paths = python_files(root)
    if not paths:
        raise typer.BadParameter(f"there are no Python files below {root}", param_hint="--path")
    size = 0
    for name in paths:
        with contextlib.suppress(OSError):  # it will be among the skipped
            size += len(name.read_bytes())
    title = str(root) if path else f"The standard library of Python {platform.python_version()}"
    workers = workers or cpus()
    if nodes:
        workers = nodes * math.ceil(workers / nodes)  # as many for each
    return Workload(root, title, paths, size, workers, nodes)


def _in_parallel(work: Workload) -> Pass:
    """Let the workers analyse all files; the time includes starting the workers."""
    start = time.perf_counter()
    with (_streamed if work.is_pipeline else _submitted)(work) as reports:
        report = merge(reports, work.root)
        return Pass(report, time.perf_counter() - start)


@contextlib.contextmanager
def _submitted(work: Workload) -> Iterator[Iterator[FileReport]]:
    """Each file as a task of a client."""
    with _client(work) as client:
        futures = [client.submit(analyse, path) for path in work.paths]
        try:
            yield (future.result() for future in progress_bar(futures, work.who))
        except BaseException:
            client.shutdown(wait=False, cancel_futures=True)  # what has not started is of no use now
            raise


@contextlib.contextmanager
def _streamed(work: Workload) -> Iterator[Iterator[FileReport]]:
    """Each file as an input of a pipeline."""

    def counted() -> Iterator[FileReport]:
        for _, report in pipeline.run(work.paths):
            shown.advance()
            yield report

    with Ventilator(analyse, workers=work.workers) as pipeline, meter(work.who, len(work.paths)) as shown:
        yield counted()


@contextlib.contextmanager
def _client(work: Workload) -> Iterator[Client]:
    """Open a client of workers that end with it."""
    with contextlib.ExitStack() as stack:
        if work.nodes:
            address, key = stack.enter_context(own_broker(work.nodes, work.workers // work.nodes))
            yield stack.enter_context(Client(address, key=key))
        else:
            os.environ.pop("ZMQTASKS_BROKER", None)  # that is not where this is to run
            yield stack.enter_context(Client(workers=work.workers))


def _in_one_process(work: Workload) -> Pass:
    """Analyse all files here, one after the other."""
    start = time.perf_counter()
    reports = []
    with meter("one process", len(work.paths)) as shown:
        for path in work.paths:
            reports.append(analyse(path))
            shown.advance()
    report = merge(reports, work.root)
    return Pass(report, time.perf_counter() - start)


class _Tables:
    """Tables for a terminal, at most 80 columns wide."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._console.width = min(self._console.width, _WIDTH_MAX)

    def open(self, work: Workload) -> None:
        rest = str(work).removeprefix(work.title)
        self._console.print(Text.assemble("\n ", (work.title, "bold"), rest, "\n"))

    def report(self, report: Report) -> None:
        console = self._console
        totals = Table(box=box.ROUNDED, border_style="dim", expand=True)
        for name in _totals(report):
            totals.add_column(name.capitalize(), justify="center", header_style="dim", style="bold cyan")
        totals.add_row(*(f"{count:,}" for count in _totals(report).values()))

        longest = _table("Longest functions", "Lines", "Function", "File", cut="Function")
        for function in report.longest:
            longest.add_row(str(function.lines), _cut(function.name), Text(function.file, style="dim"))

        imported = _table("Most imported modules", "Files", "Module", "", "Mostly in", cut="Mostly in")
        for module in report.imported:
            bar = _bar(report.imported[0].files, module.files, _BAR_WIDTH, "magenta")
            importers = _cut(_importers(module.importers), style="dim")
            imported.add_row(f"{module.files:,}", module.module, bar, importers)
        console.print("", totals, "", longest, imported)

    def verdict(self, work: Workload, parallel: Pass, serial: Pass) -> None:
        times = _table("Wall time", "Seconds", "", "")
        slowest = max(parallel.seconds, serial.seconds)
        for name, seconds, style in (
            ("one process", serial.seconds, "yellow"),
            (work.who, parallel.seconds, "green"),
        ):
            bar = _bar(slowest, seconds, 3 * _BAR_WIDTH, style)
            times.add_row(f"{seconds:.2f}", name, bar)
        ratio = f"{serial.seconds / parallel.seconds:.2f}x"
        speedup = Text.assemble("Speed-up ", (ratio, "bold green"), ", ")
        differing = _differing(parallel, serial)
        if differing:
            speedup.append(f"counts differ: {differing}", style="bold red")
        else:
            speedup.append("counts equal", style="bold green")
        self._console.print("", times, Padding(speedup, (0, 0, 1, 1)))


class _Lines:
    """Plain lines, for a file or a pipe."""

    def open(self, work: Workload) -> None:
        typer.echo(work)

    def report(self, report: Report) -> None:
        for name, count in _totals(report).items():
            typer.echo(f"{name}: {count:,}")
        for function in report.longest:
            typer.echo(f"longest function: {function.lines} lines, {function.name}, {function.file}")
        for module in report.imported:
            mostly = _importers(module.importers)
            typer.echo(f"most imported: {module.module}, {module.files:,} files, mostly in {mostly}")

    def verdict(self, work: Workload, parallel: Pass, serial: Pass) -> None:
        typer.echo(f"one process: {serial.seconds:.2f} s")
        typer.echo(f"{work.who}: {parallel.seconds:.2f} s")
        typer.echo(f"speed-up: {serial.seconds / parallel.seconds:.2f}x")
        differing = _differing(parallel, serial)
        typer.echo(f"counts differ: {differing}" if differing else "counts equal")


class _Json:
    """One JSON object, at the end."""

    def open(self, work: Workload) -> None:
        pass

    def report(self, report: Report) -> None:
        pass

    def verdict(self, work: Workload, parallel: Pass, serial: Pass) -> None:
        report = parallel.report
        found = report._asdict()
        found["longest"] = [function._asdict() for function in report.longest]
        found["imported"] = [
            {**module._asdict(), "importers": dict(module.importers)} for module in report.imported
        ]
        answer = {
            "path": str(work.root),
            "python": platform.python_version(),
            "bytes": work.size,
            **found,
            "workers": work.workers,
            "broker": bool(work.nodes),
            "pipeline": work.is_pipeline,
            "seconds": round(parallel.seconds, 3),
            "serial_seconds": round(serial.seconds, 3),
            "speedup": round(serial.seconds / parallel.seconds, 2),
            "counts_equal": parallel.report == serial.report,
        }
        typer.echo(json.dumps(answer, indent=2))


def _table(title: str, *columns: str, cut: str = "") -> Table:
    """Return a table with numbers in its first column; the column `cut` gives way where space is short."""
    table = Table(title=f" {title}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.border_style = "dim"
    table.pad_edge = False
    for number, column in enumerate(columns):
        first = number == 0
        table.add_column(
            column,
            justify="right" if first else "left",
            style="cyan" if first else "",
            header_style="dim",
            no_wrap=column != cut,
        )
    return table


def _bar(total: float, part: float, width: int, style: str) -> ProgressBar:
    return ProgressBar(total, part, width, complete_style=style, finished_style=style)


def _cut(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _totals(report: Report) -> dict[str, int]:
    return {
        "files": report.files,
        "lines": report.lines,
        "classes": report.classes,
        "functions": report.functions,
        "skipped": len(report.skipped),
    }


def _importers(importers: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{package} {files:,}" for package, files in importers)


def _differing(parallel: Pass, serial: Pass) -> str:
    """Name the fields in which the two reports differ."""
    fields = zip(Report._fields, parallel.report, serial.report, strict=True)
    return ", ".join(name for name, ours, theirs in fields if ours != theirs)
