"""The pipeline beside `multiprocessing.Pool.imap_unordered` and GNU parallel: `python -m bench pipeline [options]`.

Each question has its own contestants and its own table. Contestants take turns, A B C A B C, and each turn is a process
of its own (its whole group is killed afterwards); figures are medians over the rounds, with their range.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.chaos import survive
from bench.endless import flat
from bench.record import machine
from bench.table import LOAD_MAX, compact

WORKERS = 2
CHUNKSIZES = (100, 1_000, 10_000, 50_000)
PIPED_WIDTH = 110  # characters a line where the output is no terminal
LIMIT_S = 900.0

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn happens: a folder of its own, with the inputs; how many there are, and how long it may go on."""

    folder: Path
    inputs: int
    seconds: float

    @property
    def lines(self) -> Path:
        """The file of the inputs, a line each."""
        return self.folder / "lines.txt"

    def environment(self) -> dict[str, str]:
        """As a user with no keys and no settings has it."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("ZMQTASKS_")}
        return {**own, "ZMQTASKS_KEYS": str(self.folder / "keys")}


@contextmanager
def place(inputs: int, seconds: float) -> Iterator[Place]:
    """Write the inputs."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        made = Place(Path(folder), inputs, seconds)
        with made.lines.open("w") as file:
            file.writelines(f"line {number}\n" for number in range(inputs))
        yield made


def timed(where: Place, *command: str, stdin: Path | None = None) -> tuple[float, str]:
    """Run a program to its end: seconds, and what it has printed; it must end well."""
    with (stdin or Path(os.devnull)).open("rb") as file, (where.folder / "said").open("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=said,
            env=where.environment(),
            start_new_session=True,
            text=True,
        )
        try:
            printed, _ = process.communicate(timeout=LIMIT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seconds = time.perf_counter() - start
        said.seek(0)
        if process.returncode:
            message = f"{command[:4]} ended with {process.returncode}: {said.read()[-500:]}"
            raise RuntimeError(message)
    return seconds, printed


# ---- lines through an identity function -------------------------------------------------------------------------

_FROM_PYTHON = """
import sys, time
from bench.tasks import echo
from zmqtasks import Ventilator
with Ventilator(echo, workers={workers}) as pipeline, open(sys.argv[1]) as lines:
    list(pipeline.run(range(1000)))
    size, start = 0, time.perf_counter()
    for _, line in pipeline.run(lines):
        size += len(line)
    print(time.perf_counter() - start, size)
"""
_POOL = """
import multiprocessing, sys, time
from bench.tasks import echo
with multiprocessing.Pool({workers}) as pool, open(sys.argv[1]) as lines:
    list(pool.imap_unordered(echo, range(1000)))
    size, start = 0, time.perf_counter()
    for line in pool.imap_unordered(echo, lines, chunksize={chunksize}):
        size += len(line)
    print(time.perf_counter() - start, size)
"""


def to_a_file(where: Place) -> Figures:
    """`zmqtasks ventilator` as a whole program, its start too; and each line once in its output."""
    output = where.folder / "out.jsonl"
    command = [sys.executable, "-m", "zmqtasks", "ventilator", "bench.tasks:echo", str(where.lines)]
    seconds, _ = timed(where, *command, "--workers", str(WORKERS), "-o", str(output), "--no-progress")
    with output.open("rb") as file:
        written = sum(1 for _ in file)
    if written != where.inputs:
        message = f"{written} lines came of {where.inputs}"
        raise AssertionError(message)
    output.unlink()
    return {"lines/s": where.inputs / seconds}


def by_a_program(code: str, **values: int) -> Callable[[Place], Figures]:
    """Lines through a loop in Python that takes every value; without the start of the workers."""

    def measure(where: Place) -> Figures:
        program = code.format(workers=WORKERS, **values)
        _, printed = timed(where, sys.executable, "-c", program, str(where.lines))
        seconds, size = printed.split()
        if int(size) != where.lines.stat().st_size:
            message = "other lines came than were given"
            raise AssertionError(message)
        return {"lines/s": where.inputs / float(seconds)}

    return measure


# ---- a command for each input -----------------------------------------------------------------------------------


def by_a_command(*command: str) -> Callable[[Place], Figures]:
    """A whole program that runs `true` for each line of its standard input."""

    def measure(where: Place) -> Figures:
        seconds, _ = timed(where, *command, stdin=where.lines)
        return {"commands/s": where.inputs / seconds}

    return measure


_EXEC = (sys.executable, "-m", "zmqtasks", "ventilator", "--exec", "true", "--workers", str(WORKERS))


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of whom: `best` of its contestants begin with that word, and the best of them is the reference."""

    title: str
    note: str
    inputs: int
    seconds: float
    contestants: dict[str, Callable[[Place], Figures]]
    best: str = ""


QUESTIONS = {
    "lines": Question(
        "1,000,000 short lines through an identity function",
        "The first is the whole program with its start, and writes a line of JSON for each; the others are loops in "
        "Python over a file, with workers that have started. A Pool reads all of its inputs at once.",
        1_000_000,
        0,
        {
            "zmqtasks ventilator -o FILE": to_a_file,
            "zmqtasks.Ventilator, unordered": by_a_program(_FROM_PYTHON),
            **{
                f"imap_unordered, chunksize {size}": by_a_program(_POOL, chunksize=size)
                for size in CHUNKSIZES
            },
        },
        best="imap_unordered",
    ),
    "exec": Question(
        "true, 10,000 times, two at a time",
        "Whole programs with their start; standard output to a pipe.",
        10_000,
        0,
        {
            "zmqtasks ventilator --exec true": by_a_command(*_EXEC, "--no-progress"),
            "parallel -j2 true": by_a_command("parallel", f"-j{WORKERS}", "true"),
            "xargs -P2 -n1 true": by_a_command("xargs", f"-P{WORKERS}", "-n1", "true"),
        },
        best="parallel",
    ),
    "memory": Question(
        "Resident memory over an endless input",
        "Short lines through an identity function: the peak of each, and by how much it grew in the second half.",
        0,
        60,
        {
            "ventilator and sink in one": lambda where: flat(
                where.folder, where.environment(), where.seconds, apart=False
            ),
            "ventilator, and zmqtasks sink": lambda where: flat(
                where.folder, where.environment(), where.seconds, apart=True
            ),
        },
    ),
    "chaos": Question(
        "1,000,000 inputs with kills",
        "Every second a child or a worker is killed (kill -9), and a worker started again; the output is read "
        "line by line: missing, twice, wrong and failed have to be 0.",
        1_000_000,
        0,
        {
            "two workers, one child each": lambda where: survive(
                where.folder, where.environment(), where.inputs
            )
        },
    ),
}
"""By name. Sizes are a twentieth of these with --quick."""


def ask(
    name: str, rounds: int, *, quick: bool, say: Callable[[str], None]
) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    """All rounds of a question: figures by contestant, and why one failed."""
    question = QUESTIONS[name]
    scale = 20 if quick else 1
    found: dict[str, list[Figures]] = {contestant: [] for contestant in question.contestants}
    failures: dict[str, str] = {}
    for number in range(rounds):
        for contestant, measure in question.contestants.items():
            program = contestant.split()[0]
            if program in ("parallel", "xargs") and shutil.which(program) is None:
                failures[contestant] = f"{program} is not installed"
            if contestant in failures:
                continue
            say(f"{name}, round {number + 1} of {rounds}: {contestant}")
            with place(question.inputs // scale, question.seconds / min(scale, 5)) as where:
                try:
                    found[contestant].append(measure(where))
                except Exception as error:  # noqa: BLE001 - the others go on, and it is told
                    failures[contestant] = f"{type(error).__name__}: {error}"
    return found, failures


def table(name: str, found: dict[str, list[Figures]], failures: dict[str, str]) -> Table:
    """A row a contestant, a column a figure, and how many times as good as the reference."""
    question = QUESTIONS[name]
    keys = list(dict.fromkeys(key for rounds in found.values() for figures in rounds for key in figures))
    medians = {
        contestant: {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}
        for contestant, rounds in found.items()
        if rounds
    }
    others = [
        figures[keys[0]]
        for who, figures in medians.items()
        if question.best and who.startswith(question.best)
    ]
    made = Table(title=question.title, caption=question.note, show_lines=True, caption_justify="left")
    made.add_column("")
    for key in keys:
        made.add_column(key, justify="right")
    if others:
        made.add_column(f"of {question.best}", justify="right")
    for contestant, rounds in found.items():
        if not rounds:
            made.add_row(contestant, f"[yellow]{failures.get(contestant, '-')}[/]")
            continue
        cells = []
        for key in keys:
            values = [figures[key] for figures in rounds if key in figures]
            spread = f"\n[dim]{compact(min(values))} .. {compact(max(values))}[/]" if len(values) > 1 else ""
            cells.append(f"[bold]{compact(statistics.median(values))}[/]{spread}" if values else "-")
        if others:
            cells.append(f"{medians[contestant][keys[0]] / max(others):.2f} x")
        made.add_row(contestant, *cells)
    return made


def main(arguments: list[str]) -> int:
    """Ask, and print a table each; 1 if a measurement failed, or an input was lost or came twice."""
    parser = argparse.ArgumentParser(prog="python -m bench pipeline", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, and roughly how fast")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all contestants (default: 3)")
    parser.add_argument("--only", default=",".join(QUESTIONS), metavar="A,B", help=", ".join(QUESTIONS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if options.rounds < 1 or not set(names) <= QUESTIONS.keys():
        parser.error(f"--rounds: at least 1; --only: {', '.join(QUESTIONS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it has started ends with it
    console, about = Console(), machine()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    all_found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in names:
        with Console(stderr=True).status("starting") as status:
            found, failures = ask(name, options.rounds, quick=options.quick, say=status.update)
        console.print(table(name, found, failures))
        all_found[name] = found
        failed |= {f"{name}, {who}": why for who, why in failures.items()}
    console.print(f"{about['cpus']} CPUs, {about['system']}, {about['python']}.", highlight=False)
    if about["load_before"] > LOAD_MAX:
        console.print(
            f"[yellow]The machine was busy before (load {about['load_before']:.1f}): do not trust this.[/]"
        )
    if options.quick:
        console.print("[yellow]--quick: a twentieth of the sizes; not figures to quote.[/]")
    for who, why in failed.items():
        console.print(f"[red]{who}[/]: {why}", markup=True, highlight=False)
    if options.json:
        options.json.write_text(
            json.dumps({"machine": about, "found": all_found, "failures": failed}, indent=2)
        )
    return 1 if any("not installed" not in why for why in failed.values()) else 0
