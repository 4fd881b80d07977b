"""Each life is told from its beginning to its end, step by step."""

from __future__ import annotations

from itertools import pairwise

from zmqtasks.core.history import Happened, History
from zmqtasks.core.ledger import TRANSITIONS
from zmqtasks.core.ranges import Ranges
from zmqtasks.messages import LEASED, NEW

from .worlds import Wrong


def look(history: History, ends: dict[int, int], *, nodes: bool) -> None:
    """What `history` has of the tasks that ended in these states; `nodes` say some of it late."""
    stories: dict[int, list[Happened]] = {}
    for each in history.of(Ranges([(0, 1 << 62)])):
        for id_ in range(each.id, each.id + each.items):
            stories.setdefault(id_, []).append(each)
    for id_, state in ends.items():
        story = stories.get(id_, [])
        told = [(each.was, each.state, each.attempt) for each in story]
        if not story or (story[0].was, story[-1].state) != (NEW, state):
            raise Wrong(f"the story of task {id_} has no beginning or another end: {told}")
        for before, after in pairwise(story):
            begun = after.attempt - before.attempt  # a node may have begun it more often, and says so later
            if (
                after.was != before.state
                or after.state not in TRANSITIONS[after.was]
                or after.at < before.at
                or (begun != 1 if after.state == LEASED else begun > 0 and not nodes)
            ):
                raise Wrong(f"in the story of task {id_} something is left out: {told}")
