"""A program for two machines: where its tasks have run, and what they found.

On the one: sh broker.sh. On the other, with worker.key copied there: sh worker.sh HOST. Then, with client.key beside it:

    ZMQTASKS_BROKER=tcp://HOST:5555 ZMQTASKS_KEY=client.key python program.py
"""

import platform

from zmqtasks import Client


def divisors(number):
    """The sum of the proper divisors of a number, and who has found it."""
    return sum(d for d in range(1, number // 2 + 1) if number % d == 0), platform.node()


numbers = range(2, 3000)
with Client() as client:  # of ZMQTASKS_BROKER; without it, workers of this machine
    found = list(client.map(divisors, numbers))

print("perfect:", [n for n, (total, _) in zip(numbers, found) if total == n])
print("machines:", len({machine for _, machine in found}))
