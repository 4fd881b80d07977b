"""How short a task may be before half of the workers' time is lost.

Minimum effective task granularity after Slaughter et al., "Task Bench" (SC20): here the shortest tasks,
submitted one by one, that keep two children busy half of the time.
"""

from __future__ import annotations

import math
import statistics

from bench.contestants import Pool, pool_of
from bench.questions import Figure, Question
from bench.questions.efficiency import efficiency
from bench.tasks import spin

HALF = 0.5
LONGEST_US = 64_000
DOWN_US = (1000, 500, 200, 100, 50, 20, 10, 5, 2, 1)


def crossing(shorter: tuple[float, float], longer: tuple[float, float]) -> float:
    """Interpolate where efficiency is one half between two (us, efficiency), linear in log us; us."""
    (a_us, a), (b_us, b) = shorter, longer
    share = (HALF - a) / (b - a)
    return math.exp(math.log(a_us) + share * (math.log(b_us) - math.log(a_us)))


def metg_us(pool: Pool, work_s: float) -> float:
    """Descend from 1 ms to the first duration below one half (ascend first, if 1 ms is below already); us.

    Each efficiency is the median of three, lest one disturbance ends the search far from where it should.
    1 if even tasks of 1 us reach one half, infinity if those of 64 ms do not.
    """

    def at(duration_us: float) -> tuple[float, float]:
        tries = (efficiency(pool, spin, duration_us / 1e6, work_s) for _ in range(3))
        return duration_us, statistics.median(tries)

    last = at(DOWN_US[0])
    if last[1] < HALF:
        while last[0] < LONGEST_US:
            point = at(2 * last[0])
            if point[1] >= HALF:
                return crossing(last, point)
            last = point
        return math.inf
    for duration_us in DOWN_US[1:]:
        point = at(duration_us)
        if point[1] < HALF:
            return crossing(point, last)
        last = point
    return float(DOWN_US[-1])


def measure(contestant: str, *, quick: bool) -> dict[str, float]:
    """Find it with 0.3 s of work at each duration; us."""
    with pool_of(contestant) as pool:
        return {"metg_us": metg_us(pool, 0.1 if quick else 0.3)}


QUESTION = Question(
    title="Granularity",
    note="METG: the shortest spinning tasks, submitted one by one, that use two children half of the time.",
    figures=(Figure("metg_us", "shortest task at 50 % efficiency", "us", more_is_better=False),),
    measure=measure,
)
