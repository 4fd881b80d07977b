"""What a seed of the pipeline draws: its workers and links, its inputs, its faults."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from zmqtasks.options import DEFAULT_OPTIONS, Options, RetryRule

ALL, HALT, DROP = "all", "halt", "drop"  # how a run ends


@dataclass(slots=True, frozen=True)
class Course:
    """One run: how many inputs, which of them have an outcome already, and how it ends."""

    items: int
    known: tuple[tuple[int, int], ...]  # counted from its first number
    end: str
    after: float  # that many failures, or seconds


@dataclass(slots=True)
class PipeWorld:
    """What a seed has: every feature is in some worlds and not in others, for what is always there hides the rest."""

    slots: tuple[int, ...]  # of each worker
    hwm: int  # messages that lie in a pipe
    ahead: int  # how much a worker reads of what it cannot start, in times its slots
    pipe_s: float
    control_s: float
    sink_s: float
    loop_s: float
    flush_s: float  # how old an outcome becomes in a worker
    late: float
    sink_late: float  # how often an outcome is on its way for long
    twice: float  # how often outcomes come twice, and with others
    silence_s: float | None
    ordered: bool
    remote: bool  # the sink is a process of its own
    window: int
    costs: tuple[float, ...]
    stragglers: int  # how many inputs of a run take seconds
    mends_s: float  # until there is another child for one that died
    shy: float  # how often the first word of a worker comes a while after its end of the pipe is there
    fails: float
    flaky: float
    poison: float
    picky: float  # how many of those that fail do not ask for another attempt
    options: Options
    runs: tuple[Course, ...]
    kills: int
    stops: int
    resets: int  # what is in a pipe is lost, and the worker lives
    leaves: int
    joins: int
    stalls: int  # the ventilator stands still: for its clock, a jump
    sink_kills: int

    @classmethod
    def draw(cls, rng: Random) -> PipeWorld:
        """A world by chance."""
        chance = rng.random

        def times(odds: float, most: int) -> int:
            return rng.randint(1, most) if chance() < odds else 0

        calm = chance() < 0.2
        workers = rng.choice((1, 2, 2, 3))
        remote, ordered = chance() < 0.25, chance() < 0.5
        options = DEFAULT_OPTIONS.replace(max_deliveries=rng.randint(1, 3))
        if chance() < 0.5:
            rule = RetryRule(
                max=rng.randint(0, 3), delay=rng.choice((0.0, 0.01, 0.2)), jitter=rng.choice(("none", "full"))
            )
            options = options.replace(retry=rule)
        worst = rng.choice((2e-3, 0.02, 0.1))
        return cls(
            slots=tuple(rng.choice((1, 1, 2, 3)) for _ in range(workers)),
            hwm=rng.choice((1, 2, 4)),
            ahead=rng.choice((0, 1, 3)),
            pipe_s=rng.choice((1e-5, 1e-3, 0.1)),
            control_s=rng.choice((1e-5, 1e-3, 0.02)),
            sink_s=rng.choice((1e-5, 1e-3, 0.02)),
            loop_s=rng.choice((0.0, 1e-4, 2e-3)),
            flush_s=rng.choice((0.0, 2e-3, 0.02)),
            late=0.1 if chance() < 0.3 else 0.0,
            sink_late=0.1 if chance() < 0.3 and not calm else 0.0,
            twice=0.2 if chance() < 0.2 else 0.0,
            silence_s=rng.choice((0.3, 0.6)) if chance() < 0.4 else None,
            ordered=ordered,
            remote=remote,
            window=rng.choice((8, 1000, 1000)),
            costs=tuple(rng.choice((2e-4, 2e-3, worst)) for _ in range(rng.randint(1, 3))),
            stragglers=times(0.4, 2),
            mends_s=rng.choice((0.0, 0.05)),
            shy=0.3 if chance() < 0.3 else 0.0,
            fails=0.1 if chance() < 0.3 else 0.0,
            flaky=0.2 if chance() < 0.3 else 0.0,
            poison=0.1 if chance() < 0.3 else 0.0,
            picky=rng.choice((0.0, 0.5)),
            options=options,
            runs=cls._runs(rng, remote=remote, ordered=ordered),
            kills=0 if calm else times(0.4, 3),
            stops=0 if calm else times(0.3, 2),
            resets=0 if calm else times(0.3, 3),
            leaves=times(0.3, 2),
            joins=times(0.3, 2),
            stalls=0 if calm else times(0.2, 2),
            sink_kills=times(0.6, 2) if remote else 0,
        )

    @staticmethod
    def _runs(rng: Random, *, remote: bool, ordered: bool) -> tuple[Course, ...]:
        courses = []
        for _ in range(1 if remote else rng.choice((1, 1, 2, 3))):
            items = rng.choice((1, 3, 8, 20, 20, 50))
            known: tuple[tuple[int, int], ...] = ()
            if rng.random() < 0.25:
                first = 0 if ordered else rng.randrange(items)
                known = ((first, rng.randint(first + 1, items)),)
            end = ALL if remote else rng.choice((ALL, ALL, HALT, DROP))
            after = rng.randint(1, 3) if end == HALT else rng.random() * 0.3
            courses.append(Course(items, known, end, after))
        return tuple(courses)
