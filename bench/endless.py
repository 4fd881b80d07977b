"""How much memory a pipeline takes whose input never ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

LOOK_S = 0.1
MB = 1e6


def flat(folder: Path, environment: dict[str, str], seconds: float, *, apart: bool) -> dict[str, float]:
    """Peak and late growth of the resident memory of the ventilator, and of the sink if it is a process `apart`."""
    with ExitStack() as stack, (folder / "progress").open("w") as progress:

        def start(*command: str, stdin: int | None = None, stdout: int | None = None) -> psutil.Popen:
            process = psutil.Popen(
                command,
                stdin=stdin or subprocess.DEVNULL,
                stdout=stdout,
                stderr=progress,
                env=environment,
            )
            stack.callback(process.wait)
            stack.callback(_kill, process)
            return process

        program = (sys.executable, "-m", "zmqtasks")
        watched = {}
        where = ("-o", os.devnull)
        if apart:
            address = f"ipc://{folder}/sink"
            watched["sink"] = start(*program, "sink", "--bind", address, "-o", os.devnull)
            where = ("--sink", address)
        source = start("yes", "a short line", stdout=subprocess.PIPE)
        options = ("--workers", "2", *where)
        watched["ventilator"] = start(
            *program, "ventilator", "bench.tasks:echo", *options, stdin=source.stdout.fileno()
        )
        found = _watch(watched, seconds)
    said = re.findall(r"^zmqtasks: ([0-9,]+), ", (folder / "progress").read_text(), re.MULTILINE)
    if not said:
        message = f"no input was done in {seconds:.0f} s"
        raise RuntimeError(message)
    return {**found, "inputs": float(said[-1].replace(",", ""))}


def _kill(process: psutil.Popen) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def _watch(watched: dict[str, psutil.Popen], seconds: float) -> dict[str, float]:
    peaks, halves = dict.fromkeys(watched, 0), dict.fromkeys(watched, 0)
    start, tick = time.monotonic(), threading.Event()
    while (gone := time.monotonic() - start) < seconds:
        for name, process in watched.items():
            if process.poll() is not None:
                message = f"the {name} has ended with {process.returncode}"
                raise RuntimeError(message)
            peaks[name] = max(peaks[name], process.memory_info().rss)
            if gone < seconds / 2:
                halves[name] = peaks[name]
        tick.wait(LOOK_S)
    found = {}
    for name in reversed(watched):
        found[f"{name}, MB"] = peaks[name] / MB
        found[f"{name} grew, MB"] = (peaks[name] - halves[name]) / MB
    return found
