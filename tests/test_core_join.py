"""A join releases its body once, with every value in its place, in whatever order they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks.core.join import Addresses, Join, Slot
from zmqtasks.messages import Task

BODY = Task(1, 0, b"")


@given(st.integers(1, 30).flatmap(lambda slots: st.permutations(range(slots))))
def test_the_last_value_releases_the_body(order: list[int]) -> None:
    join = Join(BODY, len(order))
    released = [join.fill(index, f"value {index}") for index in order]
    assert released == [False] * (len(order) - 1) + [True]
    assert join.values == [f"value {index}" for index in range(len(order))]
    with pytest.raises(AssertionError, match="after it was complete"):
        join.fill(0, "again")


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9))), st.integers(0, 40), st.integers(1, 60))
def test_an_outcome_is_delivered_once_to_each_of_its_slots(
    pairs: list[tuple[int, int]], start: int, count: int
) -> None:
    addresses, join = Addresses(), Join(BODY, 10)
    for id_, index in pairs:
        addresses.add(id_, Slot(join, index))
    assert bool(addresses) == bool(pairs)
    within = [(id_, index) for id_, index in pairs if start <= id_ < start + count]
    taken = addresses.take_span(start, count)
    assert sorted((start + place, slot.index) for place, slots in taken for slot in slots) == sorted(within)
    assert addresses.take_span(start, count) == []
    assert addresses.ids() == {id_ for id_, _ in pairs} - {id_ for id_, _ in within}
    for id_ in addresses.ids():
        assert [slot.index for slot in addresses.take(id_)] == [
            index for other, index in pairs if other == id_
        ]
        assert addresses.take(id_) == []
    assert not addresses


def test_parts_of_a_body_wait_for_what_it_waits_for() -> None:
    addresses, other, join = Addresses(), Join(Task(2, 0, b""), 1), Join(BODY, 3)
    parts = [Task(3, 0, b""), Task(4, 0, b"")]
    for id_, slot in ((7, Slot(join, 1)), (7, Slot(other, 0)), (8, Slot(join, 2))):
        addresses.add(id_, slot)
    join.fill(0, "known")
    addresses.fork(BODY, parts)
    seven, eight = addresses.take(7), addresses.take(8)
    assert [slot.join.body.id for slot in seven] == [1, 2, 3, 4]
    assert [slot.join.body.id for slot in eight] == [1, 3, 4]
    for slot in seven:
        assert slot.join.fill(slot.index, "seven") == (slot.join is other)
    for slot in eight:
        assert slot.join.fill(slot.index, "eight")
        assert slot.join.values == ["known", "seven", "eight"]
