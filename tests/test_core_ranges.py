"""Ranges against sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from zmqtasks.core.ranges import Ranges

RANGE = st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(st.tuples(st.booleans(), RANGE)))
def test_they_are_sets(steps: list[tuple[bool, tuple[int, int]]]) -> None:
    ranges, numbers = Ranges(), set[int]()
    for adds, (first, limit) in steps:
        if adds:
            new = set(range(first, limit)) - numbers
            assert [n for start, end in ranges.add(first, limit) for n in range(start, end)] == sorted(new)
            numbers |= new
        else:
            out = numbers & set(range(first, limit))
            assert [n for start, end in ranges.remove(first, limit) for n in range(start, end)] == sorted(out)
            numbers -= out
        assert [n for start, end in ranges.within(5, 25) for n in range(start, end)] == sorted(
            numbers & set(range(5, 25))
        )
        found = list(ranges)
        assert [n for start, end in found for n in range(start, end)] == sorted(numbers)
        assert all(limit < start for (_, limit), (start, _) in pairwise(found))
        assert ranges.count == len(numbers)
        assert bool(ranges) == bool(numbers)
        assert all((n in ranges) == (n in numbers) for n in range(45))
