"""What py-spy sees of a load of single submits: the functions on top of the stacks, by process.

`python -m bench.sampling CONTESTANT TASKS` is the load that it looks at.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

RATE_HZ = 250
TOP = 25
LOAD_S = 8.0
"""How long the load is to last, roughly."""

LIMIT_S = 120.0
PROCESS = r'process \d+:"'
"""How py-spy begins a process: its command line follows, which may have any character in it, newlines too."""

PROCESS_AT_LINE_START = rf"\n(?={PROCESS})"


def _py_spy() -> str | None:
    beside_python = str(Path(sys.executable).parent)
    return shutil.which("py-spy", path=os.pathsep.join((os.environ.get("PATH", os.defpath), beside_python)))


def tops(raw: str) -> Counter[tuple[str, str]]:
    """Count samples by process (the client, or a child) and innermost function, from py-spy's raw format."""
    found: Counter[tuple[str, str]] = Counter()
    for record in re.split(PROCESS_AT_LINE_START, raw):
        stack, _, samples = record.strip().rpartition(" ")
        innermost = stack.rpartition(";")[2]
        if samples.isdigit() and ";" in stack and not re.match(PROCESS, innermost):
            found["children" if len(re.findall(PROCESS, stack)) > 1 else "client", innermost] += int(samples)
    return found


def run(contestant: str, console: Console, tasks_per_s: float) -> int:
    """Print the functions that took most samples, if py-spy is there to take them; 1 if it fails."""
    program = _py_spy()
    if program is None:
        console.print("(py-spy is not installed: no functions)")
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        out = Path(folder, "stacks.txt")
        command = [program, "record", "--format", "raw", "--function", "--subprocesses", "--nonblocking"]
        command += ["--rate", str(RATE_HZ), "--output", str(out)]
        command += ["--", sys.executable, "-m", "bench.sampling", contestant, str(int(LOAD_S * tasks_per_s))]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=LIMIT_S)
        if not out.exists():
            lines = done.stderr.strip().splitlines()
            console.print(f"py-spy failed: {escape(lines[-1]) if lines else done.returncode}")
            return 1
        found = tops(out.read_text())
    total = sum(found.values())
    what = f"functions on top of the stack, {total:,} samples of running threads, start included"
    table = Table(title=f"{contestant}: {what}")
    for heading in ("samples", "process", "function"):
        table.add_column(heading, justify="right" if heading == "samples" else "left")
    for (process, function), samples in found.most_common(TOP):
        table.add_row(f"{100 * samples / total:.1f} %", process, escape(function))
    console.print(table)
    return 0


if __name__ == "__main__":
    from bench.contestants import pool_of
    from bench.profile import load

    with pool_of(sys.argv[1]) as measured:
        load(measured, int(sys.argv[2]))
