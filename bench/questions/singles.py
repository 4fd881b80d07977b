"""How many single no-op tasks a second a program can submit and get back."""

from __future__ import annotations

import statistics
import time

from bench.contestants import Pool, pool_of
from bench.questions import Figure, Question
from bench.tasks import noop


def burst(pool: Pool, tasks: int) -> float:
    """Submit that many no-ops, then take all results; tasks/s."""
    start = time.perf_counter()
    pool.collect([pool.submit(noop) for _ in range(tasks)])
    return tasks / (time.perf_counter() - start)


def measure(contestant: str, *, quick: bool) -> dict[str, float]:
    """Take the median of three bursts after a warm-up of a tenth."""
    tasks = 1_000 if quick else 10_000
    with pool_of(contestant) as pool:
        burst(pool, tasks // 10)
        return {"tasks_per_s": statistics.median(burst(pool, tasks) for _ in range(3))}


QUESTION = Question(
    title="Single submits",
    note="10,000 no-op tasks: all submit(), then all result().",
    figures=(Figure("tasks_per_s", "single submits", "tasks/s", more_is_better=True),),
    measure=measure,
)
