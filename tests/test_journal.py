"""What a journal remembers: one suite for every implementation, and what a broker says to one, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from conftest import until
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks import Client
from zmqtasks.core.effects import ACCEPTED, DELIVERED, RETRIED, SETTLED, Record
from zmqtasks.journal.memory import MemoryJournal
from zmqtasks.keys import KeyStore
from zmqtasks.messages import CANCELLED, SUCCEEDED, Task

if TYPE_CHECKING:
    from pathlib import Path

    from zmqtasks.journal import Journal

JOURNALS: dict[str, Callable[[], Journal]] = {"memory": MemoryJournal}
TASKS = 100_000

every = pytest.mark.parametrize("make", JOURNALS.values(), ids=JOURNALS)


def single(id_: int, deliveries: int = 0) -> Task:
    return Task(id_, 1, b"x", deliveries=deliveries)


def span(id_: int, count: int, deliveries: int = 0) -> Task:
    return Task(id_, 1, b"x", count=count, span=True, deliveries=deliveries)


def said(journal: Journal, *records: Record) -> dict[int, int]:
    """Record in one turn, and return what is not settled."""
    journal.record(records)
    journal.commit()
    return journal.unsettled()


@every
def test_what_is_accepted_stands_until_it_is_settled(make: Callable[[], Journal]) -> None:
    journal = make()
    assert journal.unsettled() == {}
    assert said(journal, Record(ACCEPTED, [single(1), span(10, 3), single(2)])) == dict.fromkeys(
        (1, 2, 10, 11, 12), 0
    )
    assert said(journal, Record(DELIVERED, [single(2, 1), span(11, 1, 2)])) == {
        1: 0,
        2: 1,
        10: 0,
        11: 2,
        12: 0,
    }
    assert said(journal, Record(SETTLED, [single(2), span(11, 1)], SUCCEEDED, [b"", b""])) == {
        1: 0,
        10: 0,
        12: 0,
    }
    assert said(journal, Record(RETRIED, [single(1)])) == {1: 0, 10: 0, 12: 0}
    assert said(journal, Record(SETTLED, [span(10, 1), single(1)], CANCELLED, ["", ""])) == {12: 0}
    assert said(journal, Record(SETTLED, [span(12, 1)], SUCCEEDED, [b""])) == {}


@every
def test_what_was_refused_was_never_accepted(make: Callable[[], Journal]) -> None:
    journal = make()
    assert said(journal, Record(SETTLED, [single(1), span(5, 4)], CANCELLED, ["full", "full"])) == {}
    assert said(journal, Record(ACCEPTED, [single(1)])) == {1: 0}


@every
@pytest.mark.parametrize("again", [single(1), span(9, 2), span(11, 1), span(12, 5), span(5, 20)])
def test_nothing_is_accepted_twice(make: Callable[[], Journal], again: Task) -> None:
    journal = make()
    said(journal, Record(ACCEPTED, [single(1), span(10, 3)]))
    with pytest.raises(ValueError, match="twice"):
        journal.record([Record(ACCEPTED, [again])])


@every
@given(data=st.data())
def test_whatever_is_said_in_whatever_order(make: Callable[[], Journal], data: st.DataObject) -> None:
    journal, true, next_ = make(), dict[int, int](), 1
    parts: list[Task] = []  # as a dispatcher has them
    for _ in range(data.draw(st.integers(1, 20))):
        records = []
        for _ in range(data.draw(st.integers(1, 3))):
            match data.draw(st.sampled_from(("accept", "settle", "lose"))):
                case "accept":
                    new = []
                    for count in data.draw(st.lists(st.integers(0, 6), max_size=4)):
                        new.append(span(next_, count) if count else single(next_))
                        next_ += max(1, count) + data.draw(st.integers(0, 1))
                    parts += [Task(t.id, 1, b"", count=t.count, span=t.span) for t in new]
                    true.update((id_, 0) for task in new for id_ in range(task.id, task.id + task.count))
                    records.append(Record(ACCEPTED, new))
                case "settle" if parts:
                    ended = []
                    for _ in range(data.draw(st.integers(1, len(parts)))):
                        task = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
                        if task.count > 1:
                            items = data.draw(st.integers(1, task.count))
                            parts += [span(task.id + items, task.count - items)] if items < task.count else []
                            task = span(task.id, items)
                        ended.append(task)
                    for task in ended:
                        for id_ in range(task.id, task.id + task.count):
                            del true[id_]
                    records.append(Record(SETTLED, ended, SUCCEEDED, [b""] * len(ended)))
                case "lose" if parts:
                    task = parts[data.draw(st.integers(0, len(parts) - 1))]
                    true[task.id] += 1
                    lost = Task(task.id, 1, b"", span=task.span, deliveries=true[task.id])
                    records.append(Record(DELIVERED, [lost]))
        assert said(journal, *records) == true


def test_memory_holds_nothing_of_what_is_settled_and_little_of_a_span() -> None:
    journal = MemoryJournal()
    said(journal, Record(ACCEPTED, [single(id_) for id_ in range(TASKS)]))
    said(journal, Record(ACCEPTED, [span(TASKS, TASKS)]))
    assert len(journal) == TASKS + 1
    journal.record([Record(SETTLED, [single(id_) for id_ in range(TASKS)], SUCCEEDED, [b""] * TASKS)])
    for first in range(TASKS, 2 * TASKS, 1000):
        assert len(journal) == 1
        journal.record([Record(DELIVERED, [span(first + 5, 1, 1)])])
        assert len(journal) == 2
        journal.record([Record(SETTLED, [span(first, 1000)], SUCCEEDED, [b""])])
    assert len(journal) == 0
    assert not journal._ends


# ---- what a broker says to it ------------------------------------------------------------------------------------


class Slow(MemoryJournal):
    """One whose commits wait for the test, as a disk may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.kinds: list[str] = []
        self.commits = 0

    def record(self, records: Any) -> None:
        super().record(records)
        self.kinds += [record.kind for record in records]

    def commit(self) -> None:
        self.may_commit.wait(20)
        self.commits += 1


@pytest.fixture
def journal() -> Slow:
    return Slow()


@pytest.fixture
def client(
    journal: Slow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _leaves_nothing: None
) -> Iterator[Client]:
    """A client of a broker and a worker in this process."""
    from zmqtasks.keys import load
    from zmqtasks.nodes.broker import Broker
    from zmqtasks.nodes.stay import Plan
    from zmqtasks.nodes.worker import Worker
    from zmqtasks.nodes.zap import keypair

    monkeypatch.setenv("ZMQTASKS_KEYS", str(tmp_path / "keys"))
    broker = Broker(["tcp://127.0.0.1:*"], KeyStore(), journal=journal)
    worker = Worker(broker.address, load(None, "worker", keypair), Plan(2, 2))
    threads = [threading.Thread(target=each.run) for each in (broker, worker)]
    for thread in threads:
        thread.start()
    try:
        with Client(broker.address) as client:
            until(lambda: client.inspect.status()["workers"])
            yield client
            journal.may_commit.set()
    finally:
        journal.may_commit.set()
        for each, thread in zip((worker, broker), reversed(threads), strict=True):
            each.stop(cold=True) if each is worker else [each.stop(), each.stop()]
            thread.join()


def test_a_broker_says_what_it_does_before_anybody_hears_of_it(client: Client, journal: Slow) -> None:
    journal.may_commit.clear()
    future = client.submit(abs, -1)
    until(lambda: ACCEPTED in journal.kinds)
    assert not future.accepted(0.1), "it is not remembered yet"
    assert not future.done()
    journal.may_commit.set()
    assert future.result(20) == 1
    assert journal.kinds == [ACCEPTED, SETTLED]


def test_a_broker_commits_once_a_turn_and_keeps_nothing_in_it(client: Client, journal: Slow) -> None:
    futures = [client.submit(abs, -number) for number in range(10_000)]
    assert sum(client.map(abs, range(10_000))) == sum(range(10_000))
    assert client.gather(futures) == list(range(10_000))
    assert len(journal) == 0
    assert 0 < journal.commits < 5_000
    assert client.inspect.status()["journal"] == "memory"
