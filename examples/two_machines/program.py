"""A program for two machines: where its tasks have run, and what they found.

On the one: sh broker.sh. On the other, with worker.key copied there: sh worker.sh HOST. Then, where client.key is:

    ZMQTASKS_BROKER=tcp://HOST:5555 ZMQTASKS_KEY=client.key python program.py
"""

import platform

from zmqtasks import Client


def is_perfect(number):
    """Whether a number is the sum of its proper divisors, and who has found that out."""
    return sum(d for d in range(1, number) if number % d == 0) == number, platform.node()


numbers = range(2, 2000)
with Client() as client:  # of ZMQTASKS_BROKER; without it, workers of this machine
    found = dict(zip(numbers, client.map(is_perfect, numbers), strict=True))

print("perfect:", [number for number, (perfect, _) in found.items() if perfect])
print("machines:", len({machine for _, machine in found.values()}))
