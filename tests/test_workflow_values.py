"""Signatures and workflows as values: what equals what, what travels, and what they do here and now."""

from __future__ import annotations

import json
import operator
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from zmqtasks import (
    Failure,
    Retry,
    UnknownTask,
    UpstreamFailed,
    ZmqTasksError,
    chain,
    chord,
    group,
    signature,
)
from zmqtasks.errors import BadInputError, NotJson, NotPicklable
from zmqtasks.flow import NAMED, Workflow
from zmqtasks.workflow import Chain, Chord, Group, Map, Signature


class Named:
    """A task with a name, as an app makes them."""

    is_zmqtask = True

    def __init__(self, name: str, function: Any, **given: Any) -> None:
        self.name, self.function, self.given = name, function, given
        NAMED[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def client(self) -> Any:
        raise AssertionError("nothing is submitted here")


ADD = Named("shop.add", operator.add)
TOTAL = Named("shop.total", sum)


def s(*args: Any, **kwargs: Any) -> Signature:
    return signature(ADD, *args, **kwargs)


def boom(*_: Any) -> None:
    raise ValueError("boom")


# ---- values -----------------------------------------------------------------------------------------------------


def samples() -> dict[str, Workflow]:
    return {
        "call": s(1, 2),
        "keywords": signature("shop.add", 1, by=[1, {"a": None}]),
        "immutable": Signature("shop.add", (1, 2), immutable=True),
        "options": s(1).set(priority=5, retry=Retry(2, on=(OSError, ValueError)), tags={"a": "b"}),
        "eta": s(1).set(eta=datetime(2040, 5, 6, 7, 8, 9, tzinfo=UTC)),
        "links": s(1, 2).link(s(3)).link_error(signature("shop.alarm"), signature("shop.log").link(s(1))),
        "chain": chain(s(1, 2), s(3), s(4)),
        "group": group(s(1, 2), s(3, 4), failure="collect"),
        "chord": chord([s(1, 2), s(3, 4)], signature(TOTAL)),
        "map": Map(ADD, [1, 2]),
        "starmap": Map(ADD, [(1, 2), (3, 4)], star=True),
        "chunks": Map("shop.add", [(1, 2), (3, 4), (5, 6)], star=True, size=2),
        "nested": (group(s(1, 2), s(3, 4) | s(5)) | signature(TOTAL) | group(s(1), group())).set(
            time_limit=3
        ),
    }


@pytest.mark.parametrize("name", samples())
def test_a_workflow_is_a_value(name: str) -> None:
    one, other = samples()[name], samples()[name]
    assert one == other
    assert not one != other  # noqa: SIM202 - the other operator
    assert one != s(1, 2, 3)
    assert one != "another thing"
    assert repr(one) == repr(other)
    assert pickle.loads(pickle.dumps(one, 5)) == one


@pytest.mark.parametrize("name", samples())
def test_a_workflow_of_named_tasks_is_json(name: str) -> None:
    text = samples()[name].to_json()
    again = Workflow.from_json(text)
    assert again == samples()[name]
    assert type(again) is type(samples()[name])
    assert again.to_json() == text


@pytest.mark.parametrize("name", sorted(samples().keys() - {"options", "keywords"}))
def test_equal_ones_have_equal_hashes(name: str) -> None:
    assert hash(samples()[name]) == hash(samples()[name])
    assert len({samples()[name], samples()[name], s("another")}) == 2


def test_what_an_argument_cannot_be_hashed_cannot_either() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(s([1]))


def test_workflows_of_the_same_calls_in_other_places_differ() -> None:
    a, b = s(1), s(2)
    different = [
        a, b, chain(a), chain(a, b), chain(b, a), group(a), group(a, b), group(a, b, failure="wait"), a.set(priority=1),
        chain(a, b).set(priority=1), a.link(b), a.link_error(b), group(group(a), b), group(a, group(b)), Map(ADD, [1]),
        Map(ADD, [1], failure="wait"), chord([a], b), chord([a, a], b), Signature(ADD, (1,), immutable=True), s(one=1),
    ]  # fmt: skip
    assert len(set(different)) == len(different)


def test_the_spellings_of_a_chord_and_of_a_chain_are_one() -> None:
    a, b, total = s(1, 1), s(2, 2), signature(TOTAL)
    assert chord([a, b], total) == chord((a, b))(total) == chord(group(a, b), total) == group(a, b) | total
    assert group([a, b]) == group(a, b)
    assert a | b | total == a | (b | total) == chain(a, b, total) == chain(chain(a, b), total)
    assert isinstance(group(a, b) | total | a, Chain)
    assert isinstance(group(a, b) | total, Chord)
    assert chord([a], total, failure="collect") == group(a, failure="collect") | total
    assert chord(Map(ADD, [1]), total, failure="collect") == Map(ADD, [1], failure="collect") | total
    assert (a | b).set(priority=3) | total != chain(a, b, total)  # its options are of these two alone


def test_what_is_made_of_one_leaves_it_as_it_was() -> None:
    one = s(1)
    others = [one.set(priority=3), one.link(one), one.link_error(one), one.clone(2, by=3), one | one]
    assert one == s(1)
    assert others[0].options == (("priority", 3),)
    assert others[3] == s(2, 1, by=3)
    with pytest.raises(AttributeError):
        one.args = ()  # type: ignore[misc]


def test_options_are_checked_when_they_are_set() -> None:
    with pytest.raises(TypeError, match="no such option: colour"):
        s().set(colour="red")
    with pytest.raises(ValueError, match="priority"):
        group(s()).set(priority=10)
    with pytest.raises(TypeError, match=r"zmqtasks\.Retry"):
        chain(s()).set(retry=3)
    with pytest.raises(TypeError, match="eta is a datetime"):
        s().set(eta=3)
    assert s().set(time_limit=timedelta(minutes=1)) == s().set(time_limit=60.0)
    assert s().set(priority=1).set(name="x").set(priority=2) == s().set(name="x", priority=2)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (chain, "one step at least"),
        (lambda: chain(s(), 3), r"steps\[1\] is 3"),
        (lambda: group(s(), boom), r"members\[1\] is <function boom"),
        (lambda: group(3), r"members\[0\] is 3"),
        (lambda: chord([s()], boom), r"body\[0\]"),
        (lambda: s().link(boom), r"link\[0\]"),
        (lambda: s() | boom, "unsupported operand"),
        (lambda: signature(3), "can be called"),
    ],
)
def test_what_is_no_workflow_is_refused_at_once(make: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        make()


def test_no_such_policy() -> None:
    for make in (lambda: group(s(), failure="no"), lambda: chord([s()], s(), failure="no")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="fail_fast"):
            make()


def test_it_is_written_as_it_is_made() -> None:
    assert repr(s(1, 2)) == "signature('shop.add', 1, 2)"
    assert repr(signature(operator.mul, 2, by=3)) == "signature(mul, 2, by=3)"
    assert repr(group(s(1), s(2), failure="wait")) == (
        "group(signature('shop.add', 1), signature('shop.add', 2), failure='wait')"
    )
    assert (
        repr(s(1).set(priority=3).link(s()))
        == "signature('shop.add', 1).set(priority=3).link(signature('shop.add'))"
    )
    assert repr(Map(ADD, [(1, 2)], star=True, size=3)) == "shop.add.chunks([(1, 2)], 3)"
    assert repr(group(iter([s()]))) == "group(<list_iterator>)"


# ---- of any size ------------------------------------------------------------------------------------------------


def test_a_large_workflow_is_linear() -> None:
    def large(chords: int) -> Workflow:
        made: Workflow = s(0, 0)
        for at in range(chords):
            made = made | chord([s(each, at=at) for each in range(10)], signature(TOTAL))
        return made

    one, other = large(1000), large(1000)
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one, 5)) == one
    assert Workflow.from_json(one.to_json()) == one
    assert len(one.to_json()) < 11 * len(large(100).to_json())
    assert len(pickle.dumps(one, 5)) < 11 * len(pickle.dumps(large(100), 5))
    assert "signature" in repr(one)


def test_depth_is_no_matter() -> None:
    def deep(levels: int) -> Workflow:
        made: Workflow = s(0, 0)
        for _ in range(levels):
            made = group(made, s(1, 1)).link(s())
        return made

    one, other = deep(2000), deep(2000)
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one, 5)) == one
    assert Workflow.from_json(one.to_json()) == one
    assert repr(one).endswith(" ...")
    assert one.to_mermaid().startswith("flowchart TD\n")


def test_what_is_used_many_times_is_kept_once() -> None:
    made: Workflow = s(0, 0)
    for _ in range(100):
        made = group(made, made)
    assert len(made.to_json()) < 10_000
    assert pickle.loads(pickle.dumps(made, 5)) == made
    assert len({made, made}) == 1


# ---- JSON -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workflow", "says"),
    [
        (signature(boom), r"nodes\[0\]\.task: <function boom"),
        (s(1) | s((1, 2)), r"nodes\[1\]\.args\[0\]: a tuple"),
        (s(by={"a": [1, {2}]}), r"nodes\[0\]\.kwargs\['by'\]\['a'\]\[1\]: a set"),
        (s(float("nan")), r"args\[0\]: a float"),
        (s({1: 2}), r"args\[0\]: a dict"),
        (s().set(retry=Retry(on=BadInputError)), r"options\.retry\.on: BadInputError"),
        (group(iter([s()])), "of a list"),
        (Map(ADD, iter([1])), "of a list"),
    ],
)
def test_what_has_no_place_in_json_is_named(workflow: Workflow, says: str) -> None:
    with pytest.raises(NotJson, match=says):
        workflow.to_json()


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", "{}", '{"workflow":2,"nodes":[]}', '{"workflow":1,"nodes":[]}', '{"workflow":1}',
        '{"workflow":1,"nodes":[{"kind":"task"}]}', '{"workflow":1,"nodes":[{"kind":"what","task":"a"}]}',
        '{"workflow":1,"nodes":[{"kind":"task","task":3}]}', '{"workflow":1,"nodes":[{"kind":"chain","parts":[0]}]}',
        '{"workflow":1,"nodes":[{"kind":"task","task":"a","args":"b"}]}', '{"workflow":1,"nodes":[3]}',
        '{"workflow":1,"nodes":[{"kind":"task","task":"a","options":{"retry":{"retry":{"on":["eval"],"not_on":[]}}}}]}',
        "[" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_workflow_in_json_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="workflow"):
        Workflow.from_json(text)


def test_the_form_of_the_json_stays() -> None:
    made = (
        chord([s(1, 2), Map(ADD, [1])], signature(TOTAL)).link_error(signature("shop.alarm")).set(priority=2)
    )
    assert json.loads(made.to_json()) == {
        "workflow": 1,
        "nodes": [
            {"kind": "task", "task": "shop.add", "args": [1, 2]},
            {"kind": "map", "task": "shop.add", "items": [1]},
            {"kind": "group", "parts": [0, 1]},
            {"kind": "task", "task": "shop.total"},
            {"kind": "task", "task": "shop.alarm"},
            {"kind": "chord", "options": {"priority": 2}, "parts": [2, 3], "errors": [4]},
        ],
    }


def test_an_iterators_group_does_not_travel() -> None:
    with pytest.raises(NotPicklable, match="of a list"):
        pickle.dumps(group(iter([s()])))
    once = iter([s()])
    assert group(once) != group(once)


# ---- here and now -----------------------------------------------------------------------------------------------


def total(values: list[Any]) -> Any:
    return sum(values)


@pytest.mark.parametrize(
    ("workflow", "value"),
    [
        (s(1, 2), 3),
        (s(1, 2) | s(3) | s(4), 10),
        (signature(operator.sub, 10, 1) | signature(operator.sub, 3), 6),  # the result comes first
        (s(1, 2) | Signature(ADD, (5, 5), immutable=True), 10),
        (group(), []),
        (group(s(1, 2)), [3]),
        (group(s(1, 2), group(s(3, 4), group())), [3, [7, []]]),
        (chord([], signature(TOTAL)), 0),
        (chord([s(1, 2), s(3, 4)], signature(TOTAL)), 10),
        (s(1, 2) | group(s(1), s(2)) | signature(TOTAL) | s(1), 10),
        (chord([s(1, 2)], group(signature(total), signature(len))), [3, 1]),
        (Map(abs, [-1, -2]), [1, 2]),
        (s(1, 2) | Map(abs, [-1, -2]), [1, 2]),
        (Map(ADD, [(1, 2), (3, 4)], star=True) | signature(TOTAL), 10),
        (Map(ADD, [(1, 1), (2, 2), (3, 3)], star=True, size=2), [[2, 4], [6]]),
        (Map(abs, []), []),
        (signature("shop.add", 1, 2), 3),
        (group(signature(boom), s(1, 1), failure="collect") | signature(len), 2),
    ],
)
def test_it_runs_here(workflow: Workflow, value: Any) -> None:
    assert workflow.apply() == value


def test_its_errors_are_those_of_workers() -> None:
    with pytest.raises(ValueError, match="boom"):
        group(s(1, 1), signature(boom)).apply()
    with pytest.raises(UpstreamFailed) as caught:
        (signature(boom) | s(1) | s(2)).apply()
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ExceptionGroup, match="2 of its members failed") as several:
        group(signature(boom), s(1, 1), signature(boom) | s(1), failure="wait").apply()
    assert [type(error) for error in several.value.exceptions] == [ValueError, UpstreamFailed]
    with pytest.raises(UpstreamFailed) as caught:
        chord([signature(boom)], s(), failure="wait").apply()
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    with pytest.raises(UnknownTask, match=r"shop\.none"):
        signature("shop.none").apply()


def test_links_run_here_too() -> None:
    heard: list[Any] = []
    note = signature(heard.append)
    s(1, 2).link(note).link_error(note).apply()
    assert heard == [3]
    heard.clear()
    with pytest.raises(UpstreamFailed):
        chain(signature(boom), s(1).link(note)).link_error(note).apply()
    (failure,) = heard
    assert isinstance(failure, Failure)
    assert isinstance(failure.exception, UpstreamFailed)
    assert "boom" in failure.traceback
    heard.clear()
    chord([s(1, 1)], signature(TOTAL)).link(note, note).apply()
    assert heard == [2, 2]


def test_what_hangs_on_a_part_that_never_ran_hears_of_it() -> None:
    heard: list[Any] = []
    part = signature(total).link_error(signature(heard.append))
    with pytest.raises(UpstreamFailed):
        chain(signature(boom), chord([s(1)], part), s(1)).apply()
    (failure,) = heard
    assert isinstance(failure.exception.__cause__, ValueError)


def test_what_hangs_on_a_chain_stays_there_when_it_grows() -> None:
    heard: list[Any] = []
    one = (s(1, 2) | s(3)).link(signature(heard.append)) | s(10)
    assert one.apply() == 16
    assert heard == [6]
    assert len(one.parts()) == 2


def test_what_fails_is_tried_again() -> None:
    tried: list[int] = []

    def at_last() -> int:
        tried.append(1)
        if len(tried) < 3:
            raise OSError("not yet")
        return 7

    assert chain(signature(at_last)).set(retry=Retry(2, on=OSError)).apply() == 7
    assert len(tried) == 3
    with pytest.raises(OSError, match="not yet"):
        tried.clear()
        signature(at_last).set(retry=Retry(1, on=OSError)).apply()
    with pytest.raises(OSError, match="not yet"):
        tried.clear()
        signature(at_last).set(retry=Retry(not_on=OSError)).apply()
    assert tried == [1]
    tried.clear()
    assert signature(Named("shop.at_last", at_last, retry=Retry(2))).apply() == 7


def test_an_iterator_runs_once() -> None:
    taken: list[int] = []

    def members() -> Any:
        for at in range(3):
            taken.append(at)
            yield s(at, at)

    made = group(members())
    assert taken == []
    assert made.apply() == [0, 2, 4]
    with pytest.raises(ZmqTasksError, match="has been run"):
        made.apply()


def test_it_is_drawn() -> None:
    drawn = (
        chord([s(1, 2), s("<a&b>")], signature(TOTAL))
        | group(iter([s()]), failure="wait").link(s(1)).link_error(s(2))
    ).to_mermaid()
    lines = drawn.splitlines()
    assert lines[0] == "flowchart TD"
    assert '    n0["shop.add(1, 2)"]' in lines
    assert "    n1[\"shop.add('&lt;a&amp;b&gt;')\"]" in lines
    assert {"    n0 --> n2", "    n1 --> n2", "    n2 --> n3", "    n3 --> n7"} <= set(lines)
    assert "    n6 -->|result| n4" in lines
    assert "    n6 -.->|failure| n5" in lines


def test_a_group_of_many_is_drawn_small() -> None:
    drawn = group([s(at, at) for at in range(100)]).to_mermaid()
    assert "88 more" in drawn
    assert len(drawn.splitlines()) < 40


def test_no_app_no_delay() -> None:
    with pytest.raises(TypeError, match=r"client\.run"):
        chain(signature(abs, 1)).delay()


def test_groups_are_what_they_are_called() -> None:
    assert isinstance(group(s()), Group)
    assert isinstance(chord([s()])(s()), Chord)
