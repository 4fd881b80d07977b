"""Where planted bugs that are rarely seen are seen soon: the search begins with that world, and needs none of this.

python tests/planted_seeds.py      the table anew, in minutes: of each bug that is not seen at once
"""

from __future__ import annotations

SEEDS_MAX = 600
AT_ONCE = 1500  # events: a bug that is seen within so many, of all worlds up to then, is in no table
ENOUGH = 8  # worlds that show a bug, to choose from

SEEN_IN = {
    "the first item of a span is blamed for a crash": 119,
    "an outcome of a span misses its first address": 514,
    "a peer that is being killed is given tasks": 416,
    "what crossed the word of a wait is left there": 297,
    "a cancel by force hits whatever runs": 597,
    "a cancel in a scheduled span unschedules its neighbours": 395,
    "a cancel in a waiting span cuts its neighbours off": 141,
    "a span is found one id past its end": 344,
    "a wait for what is settled already counts": 282,
    "who falls silent is never given up": 138,
    "who fell silent is blamed for what it had in hand": 138,
    "what comes back from a hand does not expire": 356,
    "what is late in a hand is left there": 523,
    "what has started expires": 419,
    "only the first of a span expires": 130,
    "a failure goes up as a value": 156,
    "an end of a span speaks of one item": 212,
    "a worker that does not answer is waited for": 589,
    "a question is answered by its id alone": 367,
    "what has killed workers has a clean record elsewhere": 219,
    "a node's word about deaths is not heard": 219,
    "a cancel that crosses what comes back is lost": 75,
    "a lane is dealt down to its last before another": 130,
    "the less urgent goes where the urgent has no room": 336,
    "what an idle node does not take is recalled for it": 590,
}
"""Seeds by the bug's name. One that no longer shows it costs the time to look through the others."""


def main() -> None:
    """Look for worlds in which little has happened when a bug is seen."""
    from planted import BUGS, NODE_BUGS, plant
    from sim import Sim, Wrong

    for nodes, bugs in ((False, BUGS), (True, NODE_BUGS)):
        for name, bug in bugs.items():
            core, seen, events = plant(bug), list[tuple[int, int]](), 0
            for seed in range(SEEDS_MAX):
                sim = Sim(seed, core, nodes=nodes)
                try:
                    sim.run()
                except Wrong:
                    seen.append((sim.events, seed))
                events += sim.events
                if len(seen) >= ENOUGH or (seen and events < AT_ONCE):
                    break
            if seen and events >= AT_ONCE:
                print(f"    {name!r}: {min(seen)[1]},")  # noqa: T201 - a program too


if __name__ == "__main__":
    main()
