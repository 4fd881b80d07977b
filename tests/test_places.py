"""Workflows on the wire: joins, and where their members belong, come in as they went out, and many take little room."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from zmqtasks import codec, places, wire
from zmqtasks.blobs import FRAME_BYTES_MIN
from zmqtasks.members import Closed, Gathered, Gone, Lapse, Members
from zmqtasks.messages import CANCELLED, FAILED, JOIN, SUCCEEDED, UPSTREAM_FAILED, Task, Value
from zmqtasks.payload import Packed

FACE = object()


def arrived(message: wire.Message) -> wire.Arrived:
    head, *frames = message.mail()
    return wire.Arrived(head, [memoryview(bytes(frame)) for frame in frames], [], {})


def heard(tasks: list[Task], **more: Any) -> tuple[list[Task], wire.Arrived]:
    """These tasks as they come to the other side."""
    message = arrived(codec.asked(tasks, {}, [], afar=True, **more))
    submit = codec.asked_tasks(message)
    for task in submit.tasks:
        task.face = FACE
    places.hush(submit.tasks, message.head)
    return submit.tasks, message


def about(task: Task) -> tuple[Any, ...]:
    return task.id, task.fn, task.payload, task.count, task.needs, task.parent, task.root, task.face


@st.composite
def workflows(draw: st.DrawFn) -> list[Task]:
    """Any tasks, in places of any joins."""
    tasks: list[Task] = []
    id_ = 1
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(("join", "closed", "single", "single", "single", "span")))
        id_ += draw(st.sampled_from((1, 1, 1, 5)))
        task = Task(id_, draw(st.integers(0, 2)), b"p" * draw(st.integers(0, 3)))
        if kind == "join":
            count = draw(st.one_of(st.none(), st.integers(0, 9)))
            task = Task(id_, JOIN, Members(count, draw(st.sampled_from(("fail_fast", "collect")))))
        elif kind == "closed":
            task = Task(id_, JOIN, Closed(id_, draw(st.integers(0, 9))))
        elif kind == "span":
            task.span, task.count = True, draw(st.integers(1, 5))
            id_ += task.count - 1
        task.needs = tuple(draw(st.lists(st.integers(0, 9), max_size=2)))
        task.root = draw(st.sampled_from((-1, 1, 1, 7)))
        task.face = draw(st.sampled_from((None, FACE)))
        parents = [each.parent for each in tasks if each.parent]
        after = (parents[-1][0], parents[-1][1] + 1) if parents else (1, 0)
        task.parent = draw(st.sampled_from((None, after, after, (2, 0))))
        tasks.append(task)
    return tasks


@given(workflows())
def test_everything_comes_to_its_place(tasks: list[Task]) -> None:
    assert [about(task) for task in heard(tasks)[0]] == [about(task) for task in tasks]


def test_members_of_one_function_travel_as_one_group() -> None:
    tasks = [Task(1, JOIN, Members(1000), root=1, face=FACE)]
    tasks += [Task(10 + at, 7, b"p", parent=(1, at), root=1) for at in range(1000)]
    found, message = heard(tasks)
    assert [type(entry) for entry in message.head.tasks] == [wire.Joint, wire.Group]
    assert (message.head.members, message.head.roots, message.head.quiet) == (
        [(1, 1000, 1, 0)],
        [(0, 1001, 1)],
        [(1, 1000)],
    )
    assert [task.parent for task in found[1:]] == [(1, at) for at in range(1000)]


def test_whose_place_is_taken_and_that_more_comes() -> None:
    message = arrived(codec.asked([Task(5, 7, b"p")], {}, [], instead={5: 3}, more=True))
    submit = codec.asked_tasks(message)
    assert (submit.instead, submit.more) == ({5: 3}, True)
    assert (
        codec.core_message(arrived(codec.simple(Gone(3, 4)))) is None
    )  # a broker looks at whose ids these are
    assert arrived(codec.simple(Gone(3, 4))).head == Gone(3, 4)


def test_what_was_gathered_comes_as_it_was() -> None:
    large = bytes(range(256)) * (FRAME_BYTES_MIN // 256)
    gathered = Gathered(
        [
            Value(b"one"),
            Value(b"[1, 2, 3]", 1, 2),
            Value(large),
            Value(Gathered([])),
            Lapse(5, FAILED, b"boom"),
            Lapse(6, UPSTREAM_FAILED, (4, CANCELLED, "why")),
            Lapse(7, FAILED, Gathered([Lapse(8, CANCELLED, "why")])),
        ]
    )
    task = Task(9, 7, b"p", state=SUCCEEDED)
    task.payload = gathered
    ((_, _, state, _, value),) = codec.settled_outcomes(arrived(codec.settled([task], afar=True)))
    assert state == SUCCEEDED
    packed = value.values[2].payload
    assert isinstance(packed, Packed)
    assert bytes(packed.data) == large  # type: ignore[arg-type]  # it has come as memory
    rest = [each for at, each in enumerate(value.values) if at != 2]
    expected = [each for at, each in enumerate(gathered.values) if at != 2]
    assert [plain(each) for each in rest] == [plain(each) for each in expected]
    assert (len(value), value.depth) == (len(gathered), gathered.depth)


def plain(value: Any) -> Any:
    """What a list comes as is a list or a tuple."""
    if isinstance(value, Gathered):
        return [plain(each) for each in value.values]
    if isinstance(value, Value | Lapse):
        return [type(value).__name__, *(plain(getattr(value, name)) for name in value.__struct_fields__)]
    return list(value) if isinstance(value, tuple) else value
