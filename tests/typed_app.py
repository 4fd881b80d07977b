"""What type checkers make of an app: each line that ends in `# E` has an error of exactly that kind, others have none.

It is read, and never run: `test_app_typing.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Generator
from typing import Any, assert_type

from zmqtasks import App, Client, Future, Retry, Task, current
from zmqtasks.workflow import Signature

app = App("typed", broker="tcp://127.0.0.1:5555", workers=2)
App()  # E: too few
App("typed", speed=3)  # E: no such option


@app.task
def add(x: int, y: int = 1) -> int:
    """A plain one."""
    return x + y


@app.task(queue="mail", retry=Retry(3, on=OSError), time_limit=30)
def send(to: str, *, body: str) -> str:
    """One with options."""
    return to + body


@app.task
async def fetch(url: str) -> bytes:
    """One that awaits."""
    return url.encode()


@app.task
def lines(path: str) -> Generator[str, None, int]:
    """One that yields."""
    yield path
    return 1


async def awaits(url: str) -> bytes:
    """No task."""
    return url.encode()


def yields(n: int) -> Generator[int, None, str]:
    """No task."""
    yield n
    return "end"


class Count(Task):
    """One that keeps something."""

    calls = 0

    def run(self, by: int) -> list[int]:
        """Count."""
        self.calls += by
        return [self.calls]


count = app.task(Count)


class Base(Task):
    """What tasks have in common."""

    prefix = "x"


@app.task(base=Base)
def based(x: int) -> int:
    """One with a base."""
    return x


assert_type(add, Task[[int, int], int])  # E: its parameters have names and defaults
assert_type(add(1), int)
assert_type(add.delay(1), Future[int])
assert_type(add.delay(1, y=2).result(), int)
assert_type(add.apply_async((1, 2), countdown=10), Future[int])
assert_type(send.delay("a", body="b"), Future[str])
coroutine: Coroutine[Any, Any, bytes] = fetch("x")
assert_type(fetch.delay("x"), Future[bytes])
assert_type(fetch.apply_async(("x",)), Future[bytes])
assert_type(lines.delay("x"), Future[int])
assert_type(lines.apply_async(("x",)), Future[int])
assert_type(count.delay(1), Future[list[int]])
assert_type(based.delay(1), Future[int])
assert_type(add.s(1), Signature)
assert_type(app.send("typed.add", (1,)), Future[Any])

with Client() as client:
    assert_type(client.submit(abs, 1), Future[int])
    assert_type(client.submit(awaits, "x"), Future[bytes])
    assert_type(client.submit(yields, 1), Future[str])
    client.submit(awaits, 3)  # E: no text

add()  # E: too few
add.delay()  # E: too few
add.delay("1")  # E: no int
add.delay(1, 2, 3)  # E: too many
add.delay(1, z=2)  # E: unknown
add.si("1")  # E: no int
add.apply_async(3)  # E: no sequence
add.apply_async((1,), priority="high")  # E: no int
add.apply_async((1,), speed=3)  # E: no such option
add.delay(1).result().upper()  # E: an int
send.delay("a", "b")  # E: by its name
fetch.delay(3)  # E: no text
fetch.delay("x").result().encode()  # E: bytes
count.delay("x")  # E: no int
lines.delay(3)  # E: no text
based.delay()  # E: too few
app.task(speed=3)  # E: no such option
app.task(retry=3)  # E: no Retry
app.task(3)  # E: no function
assert_type(current().speed, int)  # E: it has none


async def awaited(urls: AsyncIterator[str]) -> None:
    """Futures are awaited with their types."""
    async for url in urls:
        assert_type(await fetch.delay(url), bytes)
