"""A run whose children and workers are killed all the time; then its output is read, line by line."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

KILL_S = 1.0
WORKERS = 2
LIMIT_S = 900.0


def survive(folder: Path, environment: dict[str, str], inputs: int) -> dict[str, float]:
    """Run the lines of `folder`/lines.txt; raises if an input is not in the output exactly once, with its result."""
    address, output = f"ipc://{folder}/control", folder / "out.jsonl"
    with ExitStack() as stack, (folder / "said").open("w") as said:

        def start(*arguments: str) -> psutil.Popen:
            process = psutil.Popen(
                [sys.executable, "-m", "zmqtasks", *arguments],
                stdin=subprocess.DEVNULL,
                stderr=said,
                env=environment,
            )
            stack.callback(process.wait)
            stack.callback(_kill, process)
            return process

        def worker() -> psutil.Popen:
            return start("worker", "--ventilator", address, "-c", "1", "--log-level", "error")

        begin = time.monotonic()
        options = ("--bind", address, "-o", str(output), "--no-progress")
        ventilator = start("ventilator", "bench.tasks:work", str(folder / "lines.txt"), *options)
        workers = [worker() for _ in range(WORKERS)]
        kills = Counter[str]()
        tick = threading.Event()
        for turn in itertools.count(1):
            tick.wait(KILL_S)
            if ventilator.poll() is not None:
                break
            if time.monotonic() - begin > LIMIT_S:
                message = f"not finished after {LIMIT_S:.0f} s: {(folder / 'said').read_text()[-500:]}"
                raise RuntimeError(message)
            place = random.randrange(WORKERS)
            if turn % 2 and (children := _children(workers[place])):
                with suppress(ProcessLookupError):
                    os.kill(random.choice(children), signal.SIGKILL)
                    kills["child"] += 1
            else:
                _kill(workers[place])
                workers[place].wait()
                workers[place] = worker()
                kills["worker"] += 1
        seconds = time.monotonic() - begin
    found = check(folder / "lines.txt", output)
    if any(found.values()) or ventilator.returncode:
        message = f"exit code {ventilator.returncode}, {found}"
        raise AssertionError(message)
    return {
        "inputs/s": inputs / seconds,
        "children killed": kills["child"],
        "workers killed": kills["worker"],
        **found,
    }


def _kill(process: psutil.Popen) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def _children(worker: psutil.Popen) -> list[int]:
    """The processes that run tasks: what the worker's fork server has forked."""
    with suppress(psutil.Error):
        return [below.pid for child in worker.children() for below in child.children()]
    return []


def check(inputs: Path, output: Path) -> dict[str, float]:
    """Count what is wrong with the output."""
    with inputs.open() as file:
        wanted = [line.rstrip("\n") for line in file]
    times = [0] * len(wanted)
    wrong = failed = 0
    with output.open() as file:
        for text in file:
            line = json.loads(text)
            index = line["index"]
            times[index] += 1
            failed += "error" in line
            wrong += line["input"] != wanted[index] or line.get("result", wanted[index]) != wanted[index]
    return {
        "missing": times.count(0),
        "twice": sum(1 for number in times if number > 1),
        "wrong": wrong,
        "failed": failed,
    }
