"""Rounds: every contestant in turn, A B C A B C, each measurement in a fresh process.

Why fresh: a pool kept open between its turns would bring threads, caches and a heap grown by earlier
questions; ProcessPoolExecutor and multiprocessing.Pool would fork from a process with another's threads in
it; and one that burns CPU while idle would be charged to its neighbour. It costs a start and a warm-up a
measurement, outside the time measured. Turns alternate so that a slow minute of the machine meets
everybody.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bench.contestants import is_asked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIMIT_S = 180.0
"""Seconds after which a measurement is given up and killed."""

Figures = dict[str, float]
Answers = dict[str, dict[str, list[Figures]]]
"""By question, then contestant: the figures of each round."""


class MeasurementError(Exception):
    """Raised when a measurement fails or outlasts `LIMIT_S`; says the last line it printed."""


def measure(question: str, contestant: str, *, quick: bool) -> Figures:
    """Run one measurement in a process group of its own, and kill what is left of the group afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        out, log = Path(folder, "figures.json"), Path(folder, "log.txt")
        command = [sys.executable, "-m", "bench.measure", question, contestant, str(out)]
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command + ["--quick"] * quick,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                message = f"not finished after {LIMIT_S:.0f} s"
                raise MeasurementError(message) from None
            finally:
                _kill_group(process)
        if code != 0 or not out.exists():
            lines = log.read_text(errors="replace").strip().splitlines()
            raise MeasurementError(lines[-1] if lines else f"exit status {code}")
        figures: Figures = json.loads(out.read_text())
        return figures


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ask(
    questions: Sequence[str],
    contestants: Sequence[str],
    rounds: int,
    *,
    quick: bool,
    progress: Callable[[str], None],
) -> tuple[Answers, dict[str, str]]:
    """All answers, and by "question contestant" what failed; who failed a question is not asked it again."""
    answers: Answers = {}
    failures: dict[str, str] = {}
    for question in questions:
        of_question = answers[question] = {contestant: [] for contestant in contestants}
        for number in range(rounds):
            for contestant in contestants:
                key = f"{question} {contestant}"
                if key in failures or not is_asked(contestant, question):
                    continue
                progress(f"{question}, round {number + 1} of {rounds}: {contestant}")
                try:
                    of_question[contestant].append(measure(question, contestant, quick=quick))
                except MeasurementError as error:
                    failures[key] = str(error)
    return answers, failures
