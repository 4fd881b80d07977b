"""A journal in memory: what the simulator restores from, and the contract for those on disk."""

from __future__ import annotations

from zmqtasks.core.effects import ACCEPTED, DELIVERED, SETTLED, Record


class MemoryJournal:
    """Deliveries by id, for every task that was accepted and is not settled; the items of a span count one by one."""

    def __init__(self) -> None:
        self._deliveries: dict[int, int] = {}

    def append(self, record: Record) -> None:
        """Remember `record`; `ValueError` where it accepts a task for the second time."""
        known = self._deliveries
        for task in record.tasks:
            for id_ in range(task.id, task.id + task.count):
                if record.kind == ACCEPTED:
                    if id_ in known:
                        raise ValueError(f"task {id_} is accepted twice")
                    known[id_] = 0
                elif record.kind == DELIVERED:
                    known[id_] = task.deliveries
                elif record.kind == SETTLED:
                    known.pop(id_, None)  # a refused task was never accepted

    def unsettled(self) -> dict[int, int]:
        """Deliveries by id of what is accepted and not settled."""
        return dict(self._deliveries)

    def __contains__(self, id_: int) -> bool:
        return id_ in self._deliveries
