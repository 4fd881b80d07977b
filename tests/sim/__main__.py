"""The command line: `python -m tests.sim`."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Callable

from . import Sim, Wrong
from . import __doc__ as about
from .pipeline import PipeSim
from .points import Points


def main() -> int:
    """Replay a seed, or try many."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=(about or "").splitlines()[0])
    parser.add_argument("seed", nargs="?", type=int, help="replay this one")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    parser.add_argument("--all", action="store_true", help="go on after a failure")
    parser.add_argument(
        "--nodes", action="store_true", help="worlds of two levels; of a pipeline, with nodes for workers"
    )
    parser.add_argument("--flows", action="store_true", help="worlds with workflows")
    parser.add_argument("--points", action="store_true", help="processes stop between two effects")
    parser.add_argument("--pipeline", action="store_true", help="a ventilator, workers, a sink")
    parser.add_argument(
        "--digest", action="store_true", help="say in a word what has happened in all of them"
    )
    arguments = parser.parse_args()

    def world(seed: int, trace: Callable[[str], object] | None = None) -> Sim | PipeSim:
        if arguments.pipeline:
            return PipeSim(seed, nodes=arguments.nodes, trace=trace)
        points = Points.draw(seed, nodes=arguments.nodes) if arguments.points else None
        return Sim(seed, nodes=arguments.nodes, flows=arguments.flows, points=points, trace=trace)

    if arguments.seed is not None:
        world(arguments.seed, print).run()
        return 0
    began, failures, events = time.perf_counter(), Counter[str](), 0
    digest = hashlib.blake2b(digest_size=16)
    trace = (lambda text: digest.update(text.encode())) if arguments.digest else None
    for seed in range(arguments.start, arguments.start + arguments.seeds):
        sim = world(seed, trace)
        try:
            sim.run()
        except Wrong as error:
            print(f"seed {seed}: {error}")  # noqa: T201 - a program too
            failures[str(error)[:20]] += 1
            if not arguments.all:
                return 1
        events += sim.events
    took = time.perf_counter() - began
    failed, rate = sum(failures.values()), arguments.seeds / took
    print(f"{arguments.seeds} seeds, {failed} failed, {events} events, {rate:.0f} seeds/s")  # noqa: T201 - a program too
    if arguments.digest:
        print(digest.hexdigest())  # noqa: T201 - a program too
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
