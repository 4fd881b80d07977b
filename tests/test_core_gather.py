"""Which outcome of each number counts, and when it is given out."""

from __future__ import annotations

from zmqtasks.core.gather import Gather, Piece
from zmqtasks.core.ranges import Ranges


def values(first: int, count: int) -> list[int]:
    return list(range(first, first + count))


def test_the_first_outcome_of_a_number_counts() -> None:
    gather = Gather()
    first = Piece(2, 3, False, values(2, 3), 0)
    assert gather.take(2, 3, values(2, 3), failed=False) == ([first], [first])
    assert gather.take(3, 1, "late", failed=True) == ([], [])


def test_of_an_overlap_the_rest_counts_with_its_place_in_the_payload() -> None:
    gather = Gather()
    gather.take(2, 2, values(2, 2), failed=False)
    payload = values(0, 6)
    new, _ = gather.take(0, 6, payload, failed=False)
    assert new == [Piece(0, 2, False, payload, 0), Piece(4, 2, False, payload, 4)]


def test_in_order_what_comes_early_waits() -> None:
    gather = Gather(5, ordered=True)
    early = Piece(7, 2, False, values(7, 2), 0)
    assert gather.take(7, 2, values(7, 2), failed=False) == ([early], [])
    assert gather.waiting == 2
    failure = Piece(6, 1, True, "E", 0)
    assert gather.take(6, 1, "E", failed=True) == ([failure], [])
    new, out = gather.take(5, 1, values(5, 1), failed=False)
    assert [piece.first for piece in out] == [5, 6, 7]
    assert new == out[:1]
    assert gather.waiting == 0


def test_what_is_known_is_not_waited_for_and_not_given_out() -> None:
    gather = Gather(5, ordered=True, known=Ranges([(5, 8)]))
    new, out = gather.take(6, 3, values(6, 3), failed=False)
    assert new == out == [Piece(8, 1, False, values(6, 3), 2)]


def test_outcomes_of_an_earlier_run_mean_nothing() -> None:
    assert Gather(5).take(3, 2, values(3, 2), failed=False) == ([], [])
