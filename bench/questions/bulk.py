"""How many items a second pass through a map of a no-op."""

from __future__ import annotations

import statistics
import time

from bench.contestants import CHUNK, Pool, pool_of
from bench.questions import Figure, Question
from bench.tasks import echo


def sweep(pool: Pool, items: int) -> float:
    """Map a no-op over that many ints, and check what comes back; items/s."""
    work = range(items)
    start = time.perf_counter()
    values = pool.bulk(echo, work)
    elapsed_s = time.perf_counter() - start
    if values != list(work):
        message = "the map returned other values than it was given"
        raise AssertionError(message)
    return items / elapsed_s


def measure(contestant: str, *, quick: bool) -> dict[str, float]:
    """Take the median of five maps after a warm-up of a tenth."""
    items = 10_000 if quick else 100_000
    with pool_of(contestant) as pool:
        sweep(pool, items // 10)
        return {"items_per_s": statistics.median(sweep(pool, items) for _ in range(5))}


QUESTION = Question(
    title="Bulk map",
    note=f"100,000 ints through a no-op; ProcessPoolExecutor and loky with chunksize={CHUNK}, "
    "multiprocessing.Pool and zmqtasks with chunks of their own choice.",
    figures=(Figure("items_per_s", "bulk map", "items/s", more_is_better=True),),
    measure=measure,
)
