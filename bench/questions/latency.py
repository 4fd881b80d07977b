"""How long one task takes there and back, with nothing else to do."""

from __future__ import annotations

import statistics
import time

from bench.contestants import pool_of
from bench.questions import Figure, Question
from bench.tasks import noop


def measure(contestant: str, *, quick: bool) -> dict[str, float]:
    """Take percentiles over 2,000 round trips, one at a time, after 200 that do not count; us."""
    trips = 200 if quick else 2_000
    times_us: list[float] = []
    with pool_of(contestant) as pool:
        submit, result = pool.submit, pool.result
        for _ in range(200):
            result(submit(noop))
        for _ in range(trips):
            start = time.perf_counter()
            result(submit(noop))
            times_us.append((time.perf_counter() - start) * 1e6)
    percentiles = statistics.quantiles(times_us, n=100, method="inclusive")
    return {"p50_us": percentiles[49], "p99_us": percentiles[98]}


QUESTION = Question(
    title="Round trip",
    note="submit(noop).result(), 2,000 times, one at a time.",
    figures=(
        Figure("p50_us", "round trip, median", "us", more_is_better=False),
        Figure("p99_us", "round trip, 99th percentile", "us", more_is_better=False, plotted=False),
    ),
    measure=measure,
)
