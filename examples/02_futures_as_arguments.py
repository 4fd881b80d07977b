"""A future as an argument is a dependency: the task runs when it has succeeded, with its value in place.

So a graph of tasks is written as ordinary calls, and nothing here waits before the last line.
"""

from statistics import mean, pstdev

from zmqtasks import Client, UpstreamFailed


def measure(station):
    """Stand in for slow work: twelve readings of a station."""
    return [(station * 7 + month * month) % 40 for month in range(12)]


def summary(readings):
    """Summarise the readings of all stations, given as a dictionary."""
    return {name: (round(mean(values), 2), round(pstdev(values), 2)) for name, values in readings.items()}


def add(left, right):
    """Add two numbers."""
    return left + right


with Client() as client:
    # At any depth: here the futures are the values of a dictionary.
    readings = {name: client.submit(measure, number) for number, name in enumerate(["north", "south"])}
    by_station = client.submit(summary, readings)

    # A tree: sixteen squares, added in pairs until one future is left.
    level = [client.submit(pow, n, 2) for n in range(16)]
    while len(level) > 1:
        level = [client.submit(add, left, right) for left, right in zip(level[::2], level[1::2], strict=True)]

    # What depends on a failure does not run.
    broken = client.submit(lambda: 1 / 0)
    never = client.submit(add, broken, 1)

    for name, (average, spread) in by_station.result().items():
        print(f"{name}: mean {average}, spread {spread}")
    print("sum of squares:", level[0].result())
    print("after a failure:", isinstance(never.exception(), UpstreamFailed), never.state)
