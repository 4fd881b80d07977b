"""How many megabytes a second travel in arguments and results of one megabyte."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from bench.contestants import Pool, pool_of
from bench.questions import Figure, Question
from bench.tasks import echo

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE_BYTES = 1_000_000
OUTSTANDING_MAX = 8


def echo_all(pool: Pool, payloads: Sequence[Any]) -> float:
    """Echo all payloads with at most `OUTSTANDING_MAX` on their way; MB/s, both directions counted."""
    outstanding: deque[Any] = deque()
    returned_bytes = 0
    start = time.perf_counter()
    for payload in payloads:
        if len(outstanding) == OUTSTANDING_MAX:
            returned_bytes += len(pool.result(outstanding.popleft()))
        outstanding.append(pool.submit(echo, payload))
    while outstanding:
        returned_bytes += len(pool.result(outstanding.popleft()))
    elapsed_s = time.perf_counter() - start
    if returned_bytes != SIZE_BYTES * len(payloads):
        message = "what came back is not as long as what was sent"
        raise AssertionError(message)
    return 2 * returned_bytes / elapsed_s / 1e6


def measure(contestant: str, *, quick: bool) -> dict[str, float]:
    """Echo 100 payloads of each kind after a warm-up of 8, no two alike lest a cache has them; MB/s."""
    import numpy as np

    tasks = 16 if quick else 100
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, SIZE_BYTES, dtype=np.uint8) for _ in range(OUTSTANDING_MAX + tasks)]
    strings = [array.tobytes() for array in arrays]
    with pool_of(contestant) as pool:
        answer = {}
        for key, payloads in (("array_mb_s", arrays), ("bytes_mb_s", strings)):
            echo_all(pool, payloads[:OUTSTANDING_MAX])
            answer[key] = echo_all(pool, payloads[OUTSTANDING_MAX:])
        return answer


QUESTION = Question(
    title="Payloads of 1 MB",
    note="100 arguments of 1,000,000 bytes echoed, up to 8 at a time; bytes in plus bytes out.",
    figures=(
        Figure("array_mb_s", "1 MB arrays in and out", "MB/s", more_is_better=True),
        Figure("bytes_mb_s", "1 MB of bytes in and out", "MB/s", more_is_better=True, plotted=False),
    ),
    measure=measure,
)
