"""What becomes of the hand of a lost worker: of a child's one task is blamed, of a node's what it had said to run."""

from __future__ import annotations

import pytest

from zmqtasks.core import attempts
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import DELIVERED, Record, Send, Settle
from zmqtasks.core.node import ABOVE, Node
from zmqtasks.messages import (
    DEAD,
    LEASED,
    QUEUED,
    SUCCEEDED,
    Ask,
    Done,
    Ended,
    Ends,
    Joined,
    Lost,
    Part,
    Recall,
    Returned,
    Run,
    Running,
    Slots,
    Submit,
    Task,
)
from zmqtasks.options import Options, RetryRule

CLIENT = 0
LONG, SHORT = 8, 7  # functions of known cost


class Broker:
    """A dispatcher over nodes of two slots each."""

    def __init__(self) -> None:
        self.machine = Dispatcher(limits=False)
        self.now = 100.0
        self.nodes = 0
        self.machine.pace.note(LONG, 1, 1.0)
        self.machine.pace.note(SHORT, 1, 1e-6)

    def node(self) -> int:
        """Another node."""
        self.nodes += 1
        self.say(self.nodes, Joined(2, node=True))
        return self.nodes

    def say(self, peer: int, *messages: object) -> list[object]:
        """What comes of these."""
        self.now += 0.001
        for message in messages:
            self.machine.receive(peer, message, self.now)
        effects = self.machine.turn(self.now)
        self.machine.check()
        return effects


def single(id_: int, fn: int = LONG, **options: object) -> Task:
    return Task(id_, fn, b"x", Options(**options))


def ends(effects: list[object]) -> dict[int, int]:
    return {task.id: e.state for e in effects if isinstance(e, Settle) for task in e.tasks}


@pytest.mark.parametrize("awaits", [False, True])
def test_whoever_is_stopped_counts_for_none_of_its_tasks(*, awaits: bool) -> None:
    node = Node(1)
    node.receive(1, Joined(), 100.0)
    node.receive(ABOVE, Run(7, [single(1, max_deliveries=1)]), 100.0)
    if awaits:
        node.receive(1, Slots(2, [], [LONG]), 100.0)
    node.turn(100.0)
    node.leave(100.1)
    node.turn(100.1)
    node.receive(1, Lost("it was stopped", -1 if awaits else 0, innocent=True), 100.2)
    node.receive(ABOVE, Recall(), 100.2)
    up = [effect.message for effect in node.turn(100.2) if isinstance(effect, Send) and effect.peer == ABOVE]
    assert [message for message in up if type(message) is Returned] == [Returned([(7, 0, 1)], [])]
    assert node.idle


def test_what_ends_its_node_each_time_is_dead_and_nothing_else_is() -> None:
    broker = Broker()
    poison, beside, behind = single(1, max_deliveries=2), single(2, max_deliveries=2), single(3, SHORT)
    node = broker.node()
    broker.say(CLIENT, Submit([poison, beside, behind]))
    effects = broker.say(node, Running([(poison.ordinal, 0)]), Lost("its connection was closed"))
    assert Record(DELIVERED, [poison]) in effects
    assert (poison.deliveries, beside.deliveries, behind.deliveries) == (1, 0, 0)
    node = broker.node()
    assert (poison.state, beside.state) == (LEASED, LEASED)
    effects = broker.say(node, Running([(poison.ordinal, 0)]), Lost("its connection was closed"))
    assert ends(effects) == {1: DEAD}
    assert (poison.attempt, poison.deliveries) == (2, 2)
    assert (beside.state, beside.deliveries) == (QUEUED, 0)
    node = broker.node()
    assert ends(broker.say(node, Done(beside.ordinal, [b"v"]), Done(behind.ordinal, [b"w"]))) == {
        2: SUCCEEDED,
        3: SUCCEEDED,
    }


def test_what_is_through_is_not_blamed() -> None:
    broker = Broker()
    node = broker.node()
    task, other = single(1, max_deliveries=1), single(2, max_deliveries=1)
    broker.say(CLIENT, Submit([task, other]))
    broker.say(node, Running([(task.ordinal, 0), (other.ordinal, 0)]))
    assert ends(broker.say(node, Done(task.ordinal, [b"v"]))) == {1: SUCCEEDED}
    assert ends(broker.say(node, Lost("gone"))) == {2: DEAD}


def test_of_a_span_each_item_that_ran_is_blamed() -> None:
    broker = Broker()
    node = broker.node()
    span = Task(10, LONG, b"items", Options(max_deliveries=1), count=2, span=True)
    broker.say(CLIENT, Submit([span]))
    assert ends(broker.say(node, Running([(0, 0), (0, 1)]), Lost("gone"))) == {10: DEAD, 11: DEAD}
    node = broker.node()
    span = Task(20, SHORT, b"items", Options(max_deliveries=1), count=9, span=True)
    broker.say(CLIENT, Submit([span]))
    assert ends(broker.say(node, Running([(0, 4)]), Lost("gone"))) == {24: DEAD}
    assert broker.machine.ledger.pending == 8


def test_what_may_have_begun_goes_alone_and_is_spoken_of() -> None:
    broker = Broker()
    node = broker.node()
    span = Task(20, SHORT, b"items", Options(), count=9, span=True)
    broker.say(CLIENT, Submit([span]))
    broker.say(node, Lost("gone"))
    (back,) = broker.machine.ledger.tasks.values()
    assert (back.attempt, attempts.is_suspect(back)) == (1, True)
    broker.nodes += 1
    (effect,) = broker.say(broker.nodes, Joined(2, node=True))
    assert isinstance(effect, Send)
    assert [(task.id, task.count) for task in effect.message.tasks] == [(20, 2)]
    below = Node(2)
    below.machine.pace.note(SHORT, 1, 1e-6)
    for worker in (1, 2):
        below.receive(worker, Joined(), 0.0)
    below.turn(0.0)
    below.receive(ABOVE, Run(0, [Task(20, SHORT, b"items", count=2, span=True, attempt=1)]), 0.0)
    first, *rest = below.turn(0.0)
    assert first == Send(ABOVE, Running([(0, 0), (0, 1)]))
    assert [(send.peer, send.message.tasks[0].id) for send in rest] == [(1, 20), (2, 21)]


@pytest.mark.parametrize(
    ("fn", "told"), [(LONG, True), (SHORT, False), (9, True)], ids=["long", "short", "new"]
)
def test_a_node_says_what_begins_unless_it_is_short(fn: int, told: bool) -> None:
    node = Node(1)
    node.machine.pace.note(LONG, 1, 1.0)
    node.machine.pace.note(SHORT, 1, 1e-6)
    node.receive(1, Joined(), 0.0)
    node.turn(0.0)
    node.receive(ABOVE, Run(5, [single(1, fn), single(2, fn)]), 0.0)
    effects = node.turn(0.0)
    assert (Send(ABOVE, Running([(5, 0)])) in effects) == told
    assert node.turn(0.001) == [], "said once"
    node.receive(1, Done(0, [b"v"]), 0.002)
    effects = node.turn(0.002)
    assert (Send(ABOVE, Running([(6, 0)])) in effects) == told


def test_attempts_are_those_that_began() -> None:
    """What was handed out and came back has not begun, wherever; what workers of a node have died of, has."""
    broker = Broker()
    task, failing, dying = single(1), single(2), single(3, max_deliveries=2)
    rule = RetryRule(max=3, delay=0.0)
    failing.options = Options(retry=rule)
    first = broker.node()
    broker.say(CLIENT, Submit([task, failing, dying]))
    assert (task.attempt, failing.attempt, dying.attempt) == (1, 1, 0)
    broker.say(first, Returned([(task.ordinal, 0, 1)]))
    assert task.state == LEASED or task.attempt == 0
    second = broker.node()
    by_peer = {task.peer: task for task in (task, failing, dying)}
    assert by_peer.keys() == {first, second}
    assert (task.attempt, failing.attempt, dying.attempt) == (1, 1, 1)
    broker.say(task.peer, Done(task.ordinal, [b"v"], died=[(task.ordinal, 0, 2)]))
    assert (task.state, task.attempt) == (SUCCEEDED, 3)
    broker.say(
        failing.peer,
        Done(failing.ordinal, [b"e"], [0], asks=[Ask(failing.ordinal)], died=[(failing.ordinal, 0, 1)]),
    )
    broker.say(CLIENT)
    assert (failing.state, failing.attempt, failing.course.log) == (LEASED, 3, ("attempt 2: ",))
    broker.say(failing.peer, Done(failing.ordinal, [b"v"], died=[(failing.ordinal, 0, 1)]))
    assert (failing.state, failing.attempt) == (SUCCEEDED, 3)
    broker.say(dying.peer, Ends([Ended(dying.ordinal, 0, 1, DEAD, "gone", 2)]))
    assert (dying.state, dying.attempt) == (DEAD, 2)


def test_the_attempts_of_an_item() -> None:
    broker = Broker()
    node = broker.node()
    span = Task(10, SHORT, b"items", count=3, span=True)
    broker.say(CLIENT, Submit([span]))
    parts = [Part(0, index, 1, failed=False, payload=[b"v"]) for index in range(3)]
    effects = broker.say(node, Done(0, [], parts=parts, died=[(0, 1, 1)]))
    done = {task.id: task.attempt for e in effects if isinstance(e, Settle) for task in e.tasks}
    assert done == {10: 1, 11: 2, 12: 1}


def test_of_a_single_task_the_claim_names_no_item() -> None:
    machine = Dispatcher()
    machine.receive(1, Joined(), 0.0)
    machine.receive(CLIENT, Submit([Task(7, LONG, b"", Options(max_deliveries=1))]), 0.0)
    machine.turn(0.0)
    machine.receive(
        1, Lost("it exited", 0, 5), 1.0
    )  # what the word beside its ordinal has is of an earlier span
    effects = machine.turn(1.0)
    machine.check()
    settled = [effect for effect in effects if isinstance(effect, Settle)]
    assert [(effect.state, [task.id for task in effect.tasks]) for effect in settled] == [(DEAD, [7])]
    assert not machine.ledger.tasks
