"""Where planted bugs that are rarely seen are seen soon: the search begins with that world, and needs none of this.

python tests/planted_seeds.py      the table anew, in minutes: of each bug that is not seen at once
"""

from __future__ import annotations

SEEDS_MAX = 600
AT_ONCE = 1500  # events: a bug that is seen within so many, of all worlds up to then, is in no table
ENOUGH = 8  # worlds that show a bug, to choose from

SEEN_IN = {
    "others are said to have succeeded": 104,
    "an old part of a span is taken for the next": 322,
    "an outcome of a part counts for all of the span": 13,
    "what is in front of a part is forgotten": 53,
    "what is in front of a part takes the place of another": 53,
    "the first item of a span is blamed for a crash": 119,
    "a recall is asked for twice": 112,
    "a recall is repeated though the last brought nothing": 93,
    "a join puts values in the order of their coming": 74,
    "an outcome of a span misses its first address": 514,
    "a returned part is taken from the wrong end": 53,
    "a waiting peer is given tasks": 18,
    "a peer that is asked to return is given tasks": 76,
    "a peer that is being killed is given tasks": 416,
    "what crossed the word of a wait is left there": 297,
    "a cancel is never answered once its peer is lost": 54,
    "a cancel by force hits whatever runs": 597,
    "an overdue peer is not asked": 23,
    "a need that was settled this very turn is unknown": 21,
    "a cancel in a scheduled span unschedules its neighbours": 395,
    "a cancel in a waiting span cuts its neighbours off": 141,
    "a span is found one id past its end": 344,
    "a wait for what is settled already counts": 282,
    "who falls silent is never given up": 138,
    "all are given up when this process has stood still": 11,
    "who fell silent is blamed for what it had in hand": 138,
    "the backoff does not grow": 71,
    "a retry waits in the queue beyond its deadline": 304,
    "a deadline is counted from the failure": 108,
    "an item of a span is retried for another's asking": 96,
    "a shorter limit is looked after when a longer one is over": 178,
    "a peer that was not ended after all gets no more": 87,
    "what comes back from a hand does not expire": 356,
    "what is late in a hand is left there": 523,
    "what has started expires": 419,
    "only the first of a span expires": 130,
    "an outcome goes up under another's ordinal": 28,
    "a failure goes up as a value": 156,
    "the parts of a span are told by the wrong place": 16,
    "of parts of a turn only the first goes up": 35,
    "an end is taken for an outcome": 13,
    "an end of a span speaks of one item": 212,
    "the answer to a cancel comes before its outcome": 50,
    "a countdown runs again in the node": 7,
    "a worker that does not answer is waited for": 589,
    "a recall without anything to return is not answered": 67,
    "what is taken back is dealt meanwhile": 31,
    "who leaves deals what comes back": 3,
    "who leaves forgets what its dying workers had": 179,
    "what is submitted is not pending anywhere": 73,
    "a question is answered by its id alone": 367,
    "what has killed workers has a clean record elsewhere": 219,
    "a node's word about deaths is not heard": 219,
    "the ends that a node tells are taken for outcomes": 13,
    "who leaves is given more": 162,
    "a node's answer is not heard": 8,
    "a cancel that crosses what comes back is lost": 75,
    "a node is recalled for a cancel": 10,
    "nobody's cancel waits for its answer": 364,
    "a piece before a hole is not found": 37,
    "a lane is dealt to anybody": 27,
    "a lane is dealt down to its last before another": 130,
    "the less urgent goes where the urgent has no room": 336,
    "what an idle node does not take is recalled for it": 590,
    "new lanes are not heard of": 295,
    "all that a lost node had in hand is blamed": 4,
    "nobody is blamed for the loss of a node": 3,
    "what has begun on a node is not spoken of": 3,
    "who is given up is not told": 84,
    "a cancelled member cancels its join": 53,
    "a part of a span has the place of the whole": 32,
    "a part of a span has no place": 38,
    "what a body needed is left": 22,
    "what others need is forsaken": 7,
    "what is forsaken forsakes nothing": 22,
    "what nobody hears of is retried": 268,
    "what nobody hears of runs again when its worker is lost": 273,
    "a cancel is caught": 55,
    "an open join never ends": 91,
    "who is gone leaves an open join": 63,
    "an outcome that came before it was asked for is lost": 132,
    "what stood in for a lost run counts for the next": 16,
    "what takes the place of a cancelled one goes on": 9,
    "an end for another goes to its taker alone": 28,
    "a refused member is missing for ever": 31,
    "who is gone leaves no joins but open ones": 18,
    "what is whole ends with who has submitted it": 8,
    "what is whole and runs ends with who has submitted it": 8,
    "of what is left only the first join ends": 43,
}
"""Seeds by the bug's name. One that no longer shows it costs the time to look through the others."""


def main() -> None:
    """Look for worlds in which little has happened when a bug is seen."""
    from planted import BUGS, FLOW_BUGS, NODE_BUGS, POINT_BUGS, plant
    from sim import Sim, Wrong
    from sim.points import Points

    kinds = (
        (False, False, BUGS),
        (True, False, NODE_BUGS),
        (False, True, FLOW_BUGS),
        (True, True, POINT_BUGS),
    )
    for nodes, flows, bugs in kinds:
        for name, bug in bugs.items():
            core, seen, events = plant(bug), list[tuple[int, int]](), 0
            for seed in range(SEEDS_MAX):
                points = Points.draw(seed, nodes=nodes) if bugs is POINT_BUGS else None
                sim = Sim(seed, core, nodes=nodes, flows=flows, points=points)
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
