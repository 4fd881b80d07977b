"""What a submit may ask for beside its function and arguments."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec

__all__ = ["DEFAULT_OPTIONS", "PRIORITY_MAX", "Options"]

PRIORITY_MAX = 9


class Options(msgspec.Struct, frozen=True, array_like=True):
    """One submit's options; the names are the public ones.

    `priority`: 0 to 9, 9 first. `countdown`: seconds (or a `timedelta`) before it may start. `name`: shown in output
    and errors. `tags`: text by text. `max_deliveries`: how often it may be running when its worker dies. `queue`:
    with a broker, only workers that take it run the task.
    """

    priority: int = 0
    countdown: float = 0.0
    name: str | None = None
    tags: dict[str, str] = {}
    max_deliveries: int = 3
    queue: str = "default"

    def replace(self, **changes: Any) -> Options:
        """The same with `changes`; an unknown name is a `TypeError`, a value out of its range a `ValueError`."""
        if unknown := changes.keys() - set(self.__struct_fields__):
            known = ", ".join(self.__struct_fields__)
            raise TypeError(f"no such option: {', '.join(sorted(unknown))} (there are: {known})")
        if isinstance(countdown := changes.get("countdown"), timedelta):
            changes["countdown"] = countdown.total_seconds()
        options: Options = msgspec.structs.replace(self, **changes)
        options._validate()
        return options

    def _validate(self) -> None:
        if type(self.priority) is not int or not 0 <= self.priority <= PRIORITY_MAX:
            raise ValueError(f"priority is an int from 0 to {PRIORITY_MAX}, not {self.priority!r}")
        # What was passed is of any type: the annotations promise what holds once this has returned.
        if not isinstance(self.countdown, (int, float)) or not 0 <= self.countdown < float("inf"):  # type: ignore[redundant-expr]  # see above
            raise ValueError(f"countdown is seconds from now, 0 or more, not {self.countdown!r}")
        if self.name is not None and not isinstance(self.name, str):
            raise ValueError(f"name is text, not {self.name!r}")
        if not isinstance(self.tags, dict) or not all(  # type: ignore[redundant-expr]  # see above
            isinstance(part, str) for pair in self.tags.items() for part in pair
        ):
            raise ValueError(f"tags are a dict of text by text, not {self.tags!r}")
        if not isinstance(self.queue, str) or not self.queue:  # type: ignore[redundant-expr]  # see above
            raise ValueError(f"queue is the name of one, not {self.queue!r}")
        if type(self.max_deliveries) is not int or self.max_deliveries < 1:
            raise ValueError(f"max_deliveries is an int of 1 or more, not {self.max_deliveries!r}")


DEFAULT_OPTIONS = Options()
