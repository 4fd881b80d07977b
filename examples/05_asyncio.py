"""The same client in asyncio: futures are awaited, and the event loop is free while the workers work."""

import asyncio

from zmqtasks import Client, as_completed


def collatz(n):
    """Return n and how many steps the Collatz sequence takes from n to 1."""
    start, steps = n, 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return start, steps


async def main():
    """Await one future, then several in the order in which they finish, then all at once."""
    async with Client() as client:
        start, steps = await client.submit(collatz, 27)
        print(f"{start} takes {steps} steps")

        futures = [client.submit(collatz, n) for n in range(1, 200)]
        record = (0, 0)
        async for future in as_completed(futures):
            start, steps = await future
            record = max(record, (steps, start))
        print("below 200, {1} takes most steps: {0}".format(*record))

        results = await asyncio.gather(*[client.submit(collatz, 2**n) for n in range(5)])
        print("powers of two:", results)

        try:
            await client.submit(collatz, "27")
        except TypeError as error:
            print("an error:", type(error).__name__)


asyncio.run(main())
