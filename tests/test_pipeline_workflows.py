"""What a pipeline takes of workflows: a map, a group of its function, a chord of either; and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from zmqtasks import Retry, Ventilator, chain, chord, group, signature
from zmqtasks.workflow import Map

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zmqtasks import Workflow


def square(number: int) -> int:
    return number * number


@pytest.fixture(scope="module")
def pipeline(_module_leaves_nothing: None) -> Iterator[Ventilator[int, int]]:
    with Ventilator(square, workers=1) as pipeline:
        assert dict(pipeline.run([1])) == {0: 1}
        yield pipeline


def s(number: int) -> Any:
    return signature(square, number)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Map(square, range(5)),
        lambda: Map(square, iter(range(5))),
        lambda: group([s(at) for at in range(5)]),
        lambda: group(s(at) for at in range(5)),
    ],
)
def test_a_map_and_a_group_are_its_items(pipeline: Ventilator[int, int], make: Any) -> None:
    assert dict(pipeline.run(make())) == {at: at * at for at in range(5)}


def test_a_chord_says_items_and_body(pipeline: Ventilator[int, int]) -> None:
    assert pipeline.chord(chord(Map(square, range(5)), signature(sum, 100))) == 130
    assert pipeline.fold(Map(square, range(5)), lambda state, value: state + value, 0) == 30
    body = signature(max, 3, 4)  # immutable, it takes no list
    assert pipeline.chord(group(s(1)) | type(body)(max, (3, 4), immutable=True)) == 4


@pytest.mark.parametrize(
    ("workflow", "says"),
    [
        (s(1), "a map, or a group"),
        (s(1) | s(2), "a map, or a group"),
        (group(s(1), s(2) | s(3)), "a map, or a group"),
        (group(group(s(1))), "a map, or a group"),
        (group(signature(square, number=1)), "a map, or a group"),
        (group(signature(square, 1, 2)), "a map, or a group"),
        (group(s(1), failure="collect"), "a map, or a group"),
        (Map(square, [(1,)], star=True), "a map, or a group"),
        (group(s(1), signature(abs, 1)), "has one function"),
        (Map(abs, [1]), "has one function"),
        (group(s(1).set(retry=Retry(3))), "options of its own"),
        (group(s(1).link(s(2))), "no links"),
    ],
)
def test_other_shapes_are_refused(pipeline: Ventilator[int, int], workflow: Workflow, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        pipeline.run(workflow)
    with pytest.raises(TypeError, match=says):
        pipeline.chord(workflow, sum)


def test_a_chord_has_one_body_and_that_is_a_call(pipeline: Ventilator[int, int]) -> None:
    for workflow, body, says in (
        (group(s(1)) | signature(sum), sum, "another"),
        (group(s(1)), None, "has a body"),
        (chord([s(1)], chain(signature(sum))), None, "a map, or a group"),
        (chord([s(1)], signature(sum).set(priority=3)), None, "options of its own"),
    ):
        with pytest.raises(TypeError, match=says):
            pipeline.chord(workflow, body)
