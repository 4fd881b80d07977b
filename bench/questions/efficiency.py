"""Which part of the workers' time goes into tasks of 10 ms, 1 ms, 100 us."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from bench.contestants import WORKERS, Pool, pool_of
from bench.questions import Figure, Question
from bench.tasks import nap, spin

if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UP_S = 0.02


def efficiency(pool: Pool, fn: Callable[[float], None], duration_s: float, work_s: float) -> float:
    """Submit `work_s` seconds of tasks of `duration_s` one by one: 1 if all children were busy all the time.

    A fiftieth of a second of the same tasks goes before, for a pool that learns durations to learn this one.
    """
    warm_up = max(2 * WORKERS, math.ceil(WARM_UP_S / duration_s))
    pool.collect([pool.submit(fn, duration_s) for _ in range(warm_up)])
    tasks = math.ceil(work_s / duration_s / WORKERS) * WORKERS
    start = time.perf_counter()
    pool.collect([pool.submit(fn, duration_s) for _ in range(tasks)])
    return tasks * duration_s / ((time.perf_counter() - start) * WORKERS)


def measure(contestant: str, *, quick: bool) -> dict[str, float]:
    """Do two seconds of work of each kind; percent."""
    work_s = 0.2 if quick else 2.0
    with pool_of(contestant) as pool:
        return {
            "spin_10ms": 100 * efficiency(pool, spin, 0.01, work_s),
            "spin_1ms": 100 * efficiency(pool, spin, 0.001, work_s),
            "spin_100us": 100 * efficiency(pool, spin, 0.0001, work_s),
            "nap_10ms": 100 * efficiency(pool, nap, 0.01, work_s),
        }


QUESTION = Question(
    title="Efficiency",
    note="Tasks that spin, without sleeping, until their time by the clock is over; on two cores they "
    "compete with the dispatching process. In the last line they sleep instead: what is missing there is "
    "dispatch alone (and the timer's slack).",
    figures=(
        Figure("spin_10ms", "efficiency, 10 ms spinning", "%", more_is_better=True, plotted=False),
        Figure("spin_1ms", "efficiency, 1 ms spinning", "%", more_is_better=True, plotted=False),
        Figure("spin_100us", "efficiency of 100 us tasks", "%", more_is_better=True),
        Figure("nap_10ms", "efficiency, 10 ms sleeping", "%", more_is_better=True, plotted=False),
    ),
    measure=measure,
)
