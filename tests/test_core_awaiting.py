"""Workers that run many tasks at a time, as coroutines: what they are given, and who is blamed for their end."""

from __future__ import annotations

from typing import Any

import pytest

from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import Answer, Send, Settle
from zmqtasks.core.node import ABOVE, Node
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    Cancel,
    Done,
    Ended,
    Ends,
    Joined,
    Lost,
    Returned,
    Run,
    Running,
    Slots,
    Submit,
    Task,
)
from zmqtasks.options import Options

AWAITS, OTHER = 7, 8  # functions
MANY = 10


def tasks(ids: range, fn: int, **options: Any) -> list[Task]:
    return [Task(id_, fn, b"", Options(**options)) for id_ in ids]


def turned(machine: Any, *words: tuple[int, Any], now: float = 0.0) -> list[Any]:
    """The effects of a turn after these words."""
    for peer, word in words:
        machine.receive(peer, word, now)
    effects = list(machine.turn(now))
    machine.check()
    return effects


def runs(effects: list[Any]) -> dict[int, list[int]]:
    """Which tasks each worker is given."""
    sent: dict[int, list[int]] = {}
    for effect in effects:
        if isinstance(effect, Send) and isinstance(effect.message, Run):
            sent.setdefault(effect.peer, []).extend(task.id for task in effect.message.tasks)
    return sent


def awaiting(workers: int = 2, **options: Any) -> Dispatcher:
    """Of two workers the first has ten tasks, and runs them at a time."""
    machine = Dispatcher(slots=2)
    turned(machine, *((peer, Joined()) for peer in range(1, workers + 1)))
    turned(machine, (0, Submit(tasks(range(1), AWAITS, **options))))
    turned(machine, (1, Slots(MANY, [], [AWAITS])))
    effects = turned(machine, (0, Submit(tasks(range(1, 5), AWAITS, **options))))
    assert sum(map(len, runs(effects).values())) == 4
    return machine


def test_it_is_given_more_of_the_kind_and_nothing_else() -> None:
    """Others are given the rest, and its slot."""
    machine = Dispatcher(slots=1)
    turned(machine, (1, Joined()))
    assert runs(turned(machine, (0, Submit(tasks(range(1), AWAITS))))) == {1: [0]}
    turned(machine, (1, Slots(MANY, [], [AWAITS])))
    mixed = [*tasks(range(1, 4), AWAITS), *tasks(range(4, 6), OTHER), *tasks(range(6, 8), AWAITS)]
    assert runs(turned(machine, (0, Submit(mixed)))) == {1: [1, 2, 3]}
    assert runs(turned(machine, (2, Joined()))) == {2: [4]}
    assert runs(turned(machine, (2, Done(0, [b""])))) == {2: [5]}
    assert runs(turned(machine, (2, Done(1, [b""])))) == {1: [6, 7]}  # a second one would be one too many
    turned(machine, (1, Slots(1)))
    assert runs(turned(machine, (1, Done(0, [b""] * 6)), (0, Submit(tasks(range(10, 12), OTHER)))))[1]


def test_as_many_as_there_are_slots_run_many() -> None:
    """So that what awaits uses the CPUs too, and what does not is not kept from them."""
    machine = awaiting()
    assert runs(turned(machine, (2, Slots(MANY, [], [AWAITS])), (3, Joined()))) == {}
    given = runs(turned(machine, (0, Submit(tasks(range(10, 16), AWAITS)))))
    assert sorted(given) == [1, 2]
    assert list(runs(turned(machine, (0, Submit(tasks(range(20, 21), OTHER))))).values()) == [[20]]


def test_who_ends_in_a_step_is_to_blame_alone() -> None:
    """The others run again, as if they had not begun."""
    machine = awaiting(1)
    settled = turned(machine, (1, Lost("killed", 2)), (2, Joined()))
    assert not [effect for effect in settled if isinstance(effect, Settle)]
    ledger = machine.ledger.tasks
    assert {id_: (task.attempt, task.deliveries) for id_, task in ledger.items() if task.deliveries} == {
        2: (2 if ledger[2].peer == 2 else 1, 1)
    }


def test_where_all_awaited_all_may_have_done_it() -> None:
    """Else what ends its process while it awaits would do so for ever."""
    machine = awaiting(1, max_deliveries=1)
    effects = turned(machine, (1, Lost("killed", -1)))
    ended = [task.id for effect in effects if isinstance(effect, Settle) for task in effect.tasks]
    assert sorted(ended) == [0, 1, 2, 3, 4]
    assert {effect.state for effect in effects if isinstance(effect, Settle)} == {DEAD}


@pytest.mark.parametrize("ends", [True, False])
def test_one_of_many_is_ended(ends: bool) -> None:
    """It is asked to end that one, and says that it has; what is through by then is not cancelled."""
    machine = awaiting(1)
    turned(machine, (0, Cancel(3, terminate=True, token="t")))
    asked = turned(machine, (1, Returned([])))
    assert [effect.message for effect in asked if isinstance(effect, Send)] == [
        Cancel(3, terminate=True, token=None)
    ]
    word = Ends([Ended(3, 0, 1, CANCELLED, "cancelled")]) if ends else Done(3, [b""])
    effects = turned(machine, (1, word))
    assert [effect.cancelled for effect in effects if isinstance(effect, Answer)] == [ends]
    assert [effect.tasks[0].id for effect in effects if isinstance(effect, Settle)] == [3]


def test_one_alone_keeps_its_process_too() -> None:
    """A worker says that it awaits before it says that it gives nothing back: it may be asked, and is not killed."""
    machine = Dispatcher()
    turned(machine, (1, Joined()), (0, Submit(tasks(range(1), AWAITS))))
    turned(machine, (0, Cancel(0, terminate=False, token="t")))
    answers = turned(machine, (1, Slots(MANY, [], [AWAITS])), (1, Returned([])))
    assert [effect.cancelled for effect in answers if isinstance(effect, Answer)] == [False]
    asked = turned(machine, (0, Cancel(0, terminate=True, token="u")))
    assert asked == [Send(1, Cancel(0, terminate=True, token=None))]


def test_a_node_has_room_for_more_where_a_worker_awaits() -> None:
    """And names all that is under way there."""
    node = Node(2)
    turned(node, (1, Joined()), (2, Joined()))
    turned(node, (ABOVE, Run(0, tasks(range(1), AWAITS))))
    effects = turned(node, (1, Slots(MANY, [], [AWAITS])))
    assert [effect.message for effect in effects if effect.peer == ABOVE] == [Slots(2 + MANY)]
    effects = turned(node, (ABOVE, Run(1, tasks(range(1, 3), AWAITS))))
    assert [effect.message for effect in effects if effect.peer == ABOVE] == [
        Running([(0, 0), (1, 0), (2, 0)])
    ]
    assert sum(map(len, runs(effects).values())) == 2
