"""How many bytes of the submitting process a queued task takes."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import psutil

from bench.contestants import open_pool
from bench.questions import Figure, Question
from bench.tasks import block, echo

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET_S = 0.1
QUIET_CPU_S = 0.002
QUIET_ROUNDS = 3


def until_quiet() -> None:
    """Wait until this process, threads and all, has been idle for 0.3 s: the submits are taken in."""
    clock = threading.Event()
    rounds = 0
    while rounds < QUIET_ROUNDS:
        before_s = time.process_time()
        clock.wait(QUIET_S)
        rounds = rounds + 1 if time.process_time() - before_s < QUIET_CPU_S else 0


def measure(contestant: str, *, quick: bool) -> dict[str, float]:
    """Take the growth of resident memory by 100,000 tasks behind a blocked worker; bytes a task.

    The pool is left as it is: whoever started this process kills it with its children.
    """
    tasks = 20_000 if quick else 100_000
    closure: Callable[[int], int] = lambda number: number  # noqa: E731  (the point is that it is a lambda)
    fn = closure if contestant == "zmqtasks" else echo
    pool = open_pool(contestant, workers=1)
    pool.collect([pool.submit(fn, number) for number in range(100)])
    pool.submit(block)
    futures: list[object] = [None] * tasks
    until_quiet()
    process = psutil.Process()
    before_bytes = process.memory_info().rss
    for number in range(tasks):
        futures[number] = pool.submit(fn, number)
    until_quiet()
    return {"bytes_per_task": (process.memory_info().rss - before_bytes) / tasks}


QUESTION = Question(
    title="Memory",
    note="Growth of the client's resident memory by 100,000 tasks behind one blocked worker, futures kept; "
    "zmqtasks is given a lambda, the others, most of which cannot pickle it, a function of a module.",
    figures=(Figure("bytes_per_task", "memory of a queued task", "bytes", more_is_better=False),),
    measure=measure,
)
