"""A list of values where some cannot be rebuilt: those are lost, and no others."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks.payload import dump_result
from zmqtasks.salvage import Lost, load_each


class Refuses:
    """Cannot be rebuilt, in one of the ways in which that is so."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __reduce_ex__(self, _protocol: Any) -> Any:
        ways: dict[str, Any] = {
            "reduce": (int, ("nonsense",)),
            "state": (Picky, (), {"way": "state"}),
            "items": (Picky, (), None, iter([1])),
            "pairs": (Picky, (), None, None, iter([("a", 1)])),
        }
        return ways[self.way]


class Picky:
    def __setstate__(self, state: Any) -> None:
        raise ValueError(state)

    def extend(self, items: Any) -> None:
        raise ValueError(items)

    def append(self, item: Any) -> None:
        raise ValueError(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise ValueError(key)


refusals = st.sampled_from(["reduce", "state", "items", "pairs"]).map(Refuses)
hashable = st.recursive(
    st.integers() | st.text(max_size=3) | st.binary(max_size=3), lambda one: st.tuples(one, one), max_leaves=3
)
trees = st.recursive(
    hashable | refusals,
    lambda one: (
        st.lists(one, max_size=3)
        | st.tuples(one)
        | st.tuples(one, one)
        | st.tuples(one, one, one)
        | st.tuples(one, one, one, one)
        | st.dictionaries(hashable, one, max_size=3)
        | st.dictionaries(hashable, one, max_size=2).map(OrderedDict)
        | st.frozensets(hashable, max_size=3)
        | st.sets(hashable, max_size=2)
    ),
    max_leaves=6,
)


def is_whole(value: Any) -> bool:
    if isinstance(value, Refuses):
        return False
    if isinstance(value, dict):
        return all(is_whole(one) for one in value.values())
    return not isinstance(value, list | tuple) or all(is_whole(one) for one in value)


@given(st.lists(trees, max_size=8))
def test_what_holds_something_lost_is_lost_and_nothing_else(values: list[Any]) -> None:
    for found in (load_each(dump_result(values)), load_each(pickle.dumps(values, 4))):
        assert len(found) == len(values)
        for before, after in zip(values, found, strict=True):
            if is_whole(before):
                assert after == before
                assert type(after) is type(before)
            else:
                assert type(after) is Lost
                assert isinstance(after.error, ValueError)


def test_what_is_lost_is_lost_wherever_it_is_again() -> None:
    lost: list[Any] = [1, Refuses("reduce")]
    whole = ["whole"]
    found = load_each(cloudpickle.dumps([lost, whole, {"a": lost}, [whole]]))
    assert [type(one) for one in found] == [Lost, list, Lost, list]
    assert found[3] == [whole]


class Text:
    """Comes back as a number, if it is one."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> Any:
        return int, (self.text,)


def test_what_a_lost_one_was_made_with_is_there_for_others() -> None:
    found = load_each(dump_result([Text("x"), Text("2"), Refuses("state"), {"a": Text("3")}]))
    assert [type(one) for one in found] == [Lost, int, Lost, dict]
    assert (found[1], found[3]) == (2, {"a": 3})


def test_many_and_large_ones() -> None:
    values: list[Any] = [OrderedDict(a=number) for number in range(3000)]
    values[1500] = Refuses("state")
    values[7] = np.arange(100_000)
    found = load_each(dump_result(values))
    assert [place for place, one in enumerate(found) if type(one) is Lost] == [1500]
    assert found[7].sum() == values[7].sum()
    assert found[2999] == values[2999]


def test_what_is_no_pickle_is_an_error() -> None:
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        load_each(pickle.dumps([1, 2, Refuses("reduce")])[:-3])
