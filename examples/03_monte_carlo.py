"""Pi by throwing darts: the same seeds give the same darts, however many workers throw them."""

from math import pi
from random import Random

from zmqtasks import Client

THROWS = 100_000
SEEDS = range(40)


def hits(seed):
    """Throw darts at a square, and count those in its quarter circle."""
    throw = Random(seed).random
    return sum(throw() ** 2 + throw() ** 2 <= 1 for _ in range(THROWS))


with Client() as client:
    counts = list(client.map(hits, SEEDS))

throws = THROWS * len(SEEDS)
estimate = 4 * sum(counts) / throws
print(f"{sum(counts):,} of {throws:,} darts hit")
print(f"pi is about {estimate:.4f}, off by {abs(estimate - pi):.4f}")
print("as one process counts:", counts[:3] == [hits(seed) for seed in SEEDS[:3]])
