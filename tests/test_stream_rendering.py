"""What the output has of an item: lines that read back as what was returned, failures that say why."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import pickle
from decimal import Decimal
from typing import Any

import cloudpickle
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks.errors import NotJson
from zmqtasks.stream.batch import Unit, pack, unpack
from zmqtasks.stream.item import BadInput
from zmqtasks.stream.notation import as_json
from zmqtasks.stream.rendering import RenderedFunction

texts = st.text(st.characters(exclude_categories=["Cs"]))
plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def line(value: bytes | Unit) -> dict[str, Any]:
    """Return the one line that a value has, read."""
    out = value if isinstance(value, bytes) else value.out
    assert out.endswith(b"\n")
    assert out.count(b"\n") == 1
    return dict(json.loads(out))


@given(plain, plain)
def test_a_line_reads_back_as_what_went_in_and_came_out(item: Any, result: Any) -> None:
    assert line(RenderedFunction(lambda _: result)(3, item)) == {
        "index": 3,
        "input": item,
        "result": result,
        "attempts": 1,
    }


def test_a_line_is_as_documented() -> None:
    assert (
        RenderedFunction(str.upper)(0, "a") == b'{"index": 0, "input": "a", "result": "A", "attempts": 1}\n'
    )
    rendered = RenderedFunction(str.upper)
    rendered.attempt = 2
    assert rendered(10, "ä") == ('{"index": 10, "input": "ä", "result": "Ä", "attempts": 2}\n'.encode())


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        (object(), "the result is of type object, which JSON does not have"),
        (b"ab", "the result is of type bytes"),
        ({1, 2}, "the result is of type set"),
        (dt.date(2026, 1, 1), "the result is of type datetime.date"),
        (np.int64(3), "the result is of type numpy.int64"),
        (np.zeros(2), "the result is of type numpy.ndarray"),
        (float("nan"), "the result is the number nan"),
        ([1, {"a": [float("-inf")]}], "the result[1]['a'][0] is the number -inf"),
        ({"a": (1, Decimal(2))}, "the result['a'][1] is of type decimal.Decimal"),
        ({(1, 2): 3}, "the result key (1, 2) is of type tuple"),
        ({"\ud800": 3}, "the result key '\\ud800' is text with half a character"),
        ("\ud800", "the result is text with half a character"),
        ([10**5000], "the result[0] is a number of too many digits"),
    ],
)
def test_a_result_that_json_cannot_hold_fails_its_input_and_names_the_type(
    result: Any, complaint: str
) -> None:
    value = RenderedFunction(lambda _: result, retries=5)(0, "a")
    assert isinstance(value, Unit)
    assert value.failed
    error = line(value)["error"]
    assert (error["type"], error["traceback"]) == ("zmqtasks.errors.NotJson", "")
    assert error["message"].startswith(complaint)


def test_a_result_that_holds_itself_is_no_json() -> None:
    ring: list[Any] = []
    ring.append(ring)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for result in (ring, deep):
        with pytest.raises(NotJson, match="nested too deeply, or holds itself"):
            as_json(result)


def test_numbers_and_tuples_are_what_json_makes_of_them() -> None:
    assert as_json((1, [2**70, 0.5], True)) == b"[1,[1180591620717411303424,0.5],true]"
    assert as_json({1: None, 1.5: "x"}) == b'{"1":null,"1.5":"x"}'
    assert as_json(np.float64(0.5)) == b"0.5"  # it is a float


def test_other_notations_take_what_json_does_not() -> None:
    shown = line(RenderedFunction(lambda _: {3}, notation="repr")(0, "a"))
    assert shown["result"] == "{3}"
    pickled = line(RenderedFunction(lambda _: {3}, notation="pickle")(0, "a"))["result"]
    assert pickle.loads(base64.b64decode(pickled["pickle"])) == {3}
    failed = line(RenderedFunction(lambda _: (i for i in ()), notation="pickle")(0, "a"))
    assert failed["error"]["type"] == "zmqtasks.errors.NotPicklable"
    assert "cannot pickle 'generator' object" in failed["error"]["message"]


class Odd(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        (ValueError("bad\nworse"), "ValueError", "bad\nworse"),
        (SystemExit(3), "SystemExit", "3"),
        (KeyError("\ud800"), "KeyError", "'\\ud800'"),
        (ValueError("\ud800"), "ValueError", "\\ud800"),
        (json.JSONDecodeError("no", "x", 0), "json.decoder.JSONDecodeError", "no: line 1 column 1 (char 0)"),
        (Odd(), f"{__name__}.Odd", "<no text: ValueError in __str__>"),
    ],
)
def test_a_failure_has_type_message_and_the_functions_own_traceback(
    error: BaseException, name: str, message: str
) -> None:
    def fails(item: Any) -> None:
        item.append(1)  # the line has the input as it was
        raise error

    found = line(RenderedFunction(fails)(4, []))
    assert (found["index"], found["input"], found["attempts"]) == (4, [], 1)
    assert (found["error"]["type"], found["error"]["message"]) == (name, message)
    first, second, *_ = found["error"]["traceback"].splitlines()
    assert first == "Traceback (most recent call last):"
    assert second.startswith(f'  File "{__file__}", line ')
    assert second.endswith("in fails")


def test_it_raises_while_an_attempt_is_left() -> None:
    rendered = RenderedFunction(lambda item: 1 // 0, retries=2)
    for rendered.attempt in (1, 2):
        with pytest.raises(ZeroDivisionError):
            rendered(0, "a")
    rendered.attempt = 3
    assert line(rendered(0, "a"))["attempts"] == 3


def test_text_is_the_result_alone() -> None:
    assert RenderedFunction(str.upper, text=True)(0, "a") == b"A\n"
    assert RenderedFunction(len, text=True)(0, "abc") == b"3\n"
    assert RenderedFunction(lambda _: None, text=True)(0, "abc") == b"null\n"
    assert RenderedFunction(lambda _: {"a": 1}, text=True)(0, "a") == b'{"a":1}\n'
    assert RenderedFunction(lambda _: {1}, text=True, notation="repr")(0, "a") == b'"{1}"\n'


def test_a_failure_in_text_is_a_line_for_standard_error() -> None:
    failed = RenderedFunction(lambda _: int("x\ny"), text=True)(7, "a b")
    assert failed == Unit(
        b"",
        b"zmqtasks: input 7, \"a b\": ValueError: invalid literal for int() with base 10: 'x\\ny'\n",
        True,
    )
    assert RenderedFunction(lambda _: "\ud800", text=True)(0, "a" * 100) == Unit(
        b"",
        b'zmqtasks: input 0, "' + b"a" * 59 + b"...: UnicodeEncodeError: 'utf-8' codec can't encode character"
        b" '\\ud800' in position 0: surrogates not allowed\n",
        True,
    )


BAD = BadInput("a.txt", 17, "no UTF-8", b"a\xffb")


def test_what_could_not_be_read_fails_in_its_place() -> None:
    found = line(RenderedFunction(str.upper, retries=3)(2, BAD))
    assert found == {
        "index": 2,
        "input": "a\\xffb",
        "error": {"type": "BadInput", "message": "a.txt, line 17: no UTF-8", "traceback": ""},
        "attempts": 0,
    }
    assert RenderedFunction(str.upper, text=True)(2, BAD) == Unit(
        b"", b'zmqtasks: input 2, "a\\\\xffb": a.txt, line 17: no UTF-8\n', True
    )


def test_what_befell_an_input_elsewhere_is_rendered_alike() -> None:
    found = line(RenderedFunction(str.upper).failed(2, {"a": 1}, TimeoutError("no longer"), 3))
    assert (found["input"], found["attempts"], found["error"]["message"]) == ({"a": 1}, 3, "no longer")


def test_it_travels_with_its_closure() -> None:
    ending = "!"
    there = pickle.loads(cloudpickle.dumps(RenderedFunction(lambda item: item + ending, text=True)))
    assert there(0, "a") == b"a!\n"


# ---- batches ----------------------------------------------------------------------------------------------------

values = st.binary(max_size=5) | st.builds(Unit, st.binary(max_size=5), st.binary(max_size=5), st.booleans())


@given(st.lists(values, max_size=20))
def test_a_batch_arrives_as_it_was_packed(given: list[bytes | Unit]) -> None:
    batch = unpack(pack(given))
    units = [value if isinstance(value, Unit) else Unit(value, b"", False) for value in given]
    assert len(batch) == len(given)
    assert batch.outs == [unit.out for unit in units]
    assert [batch.errs.get(place, b"") for place in range(len(batch))] == [unit.err for unit in units]
    assert [place in batch.failed for place in range(len(batch))] == [unit.failed for unit in units]


@given(st.binary(max_size=30))
def test_anything_else_is_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        batch = unpack(data)
        assert {*batch.errs, *batch.failed} <= {*range(len(batch))}


@pytest.mark.parametrize(
    "parts", [([b"a"], {1: b"x"}), ([b"a"], {}, [1]), ([b"a"], {-1: b"x"}), (["a"],), ([], {}, [], 1)]
)
def test_a_batch_speaks_of_its_own_inputs_only(parts: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="no batch of results"):
        unpack(msgspec.msgpack.encode(parts))


def test_a_batch_is_never_unpickled() -> None:
    with pytest.raises(ValueError, match="no batch of results"):
        unpack(pickle.dumps([b"a"]))
