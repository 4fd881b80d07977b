"""How long one array of 100 MB takes there and back."""

from __future__ import annotations

import time

from bench.contestants import pool_of
from bench.questions import Figure, Question
from bench.tasks import echo

ITEMS = 12_500_000


def measure(contestant: str, *, quick: bool) -> dict[str, float]:
    """Time one echo of a float64 array never sent before, in a child that has imported numpy; seconds."""
    import numpy as np

    array = np.arange(ITEMS // 10 if quick else ITEMS, dtype=np.float64)
    with pool_of(contestant) as pool:
        pool.collect([pool.submit(echo, np.ones(1000)) for _ in range(50)])
        start = time.perf_counter()
        returned = pool.result(pool.submit(echo, array))
        elapsed_s = time.perf_counter() - start
        if not np.array_equal(returned, array):
            message = "another array came back"
            raise AssertionError(message)
    return {"echo_s": elapsed_s}


QUESTION = Question(
    title="A payload of 100 MB",
    note="One float64 array of 100,000,000 bytes echoed.",
    figures=(Figure("echo_s", "100 MB array echoed", "s", more_is_better=False),),
    measure=measure,
)
