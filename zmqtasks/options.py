"""What a submit may ask for beside its function and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

import msgspec

__all__ = ["DEFAULT_OPTIONS", "DEFAULT_RETRY", "PRIORITY_MAX", "Options", "Retry", "RetryRule", "duration_s"]

PRIORITY_MAX = 9
JITTERS = ("full", "none", "equal")
Duration = float | timedelta


def duration_s(name: str, value: Any, *, least: float | None = None) -> float:
    """A duration as seconds: at least `least`, or above 0 where none is given."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and value < float("inf")
    if not right or not (value > 0 if least is None else value >= least):
        bound = "more than 0" if least is None else f"{least:g} or more"
        raise ValueError(f"{name} is seconds or a timedelta, {bound}, not {value!r}")
    return float(value)


class Retry(msgspec.Struct, frozen=True):
    """When a failed task is run again, under the same id: `client.options(retry=Retry(5, on=OSError))`.

    `max`: retries after the first attempt. `on`, `not_on`: exception classes, one or a tuple; what is in both is not
    retried, nor is `NotPicklable`, which would only come again. `delay`: before the first retry; each further one waits
    `factor` times as long, `max_delay` at most. `jitter` takes that time by chance: "full" from 0 to all of it, "equal"
    from half to all of it, "none" all. `deadline`: counted from the submit, after which no retry is started. Durations
    are seconds or `timedelta`. The loss of a worker is no failure: `max_deliveries` counts those.
    """

    max: int = 3
    on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,)
    not_on: type[BaseException] | tuple[type[BaseException], ...] = ()
    delay: Duration = 1.0
    factor: float = 2.0
    max_delay: Duration = 600.0
    jitter: Literal["full", "none", "equal"] = "full"
    deadline: Duration | None = None

    def __post_init__(self) -> None:
        if type(self.max) is not int or self.max < 0:
            raise ValueError(f"max is an int of 0 or more, not {self.max!r}")
        for name in ("on", "not_on"):
            given = getattr(self, name)
            classes = given if isinstance(given, tuple) else (given,)
            if not all(isinstance(each, type) and issubclass(each, BaseException) for each in classes):
                raise TypeError(f"{name} is an exception class or a tuple of them, not {given!r}")
            msgspec.structs.force_setattr(self, name, classes)
        for name in ("delay", "max_delay"):
            seconds = duration_s(name, getattr(self, name), least=0.0)
            msgspec.structs.force_setattr(self, name, seconds)
        if type(self.factor) not in (int, float) or not 1 <= self.factor < float("inf"):
            raise ValueError(f"factor is a number, 1 or more, not {self.factor!r}")
        if self.jitter not in JITTERS:
            raise ValueError(f"jitter is one of {', '.join(JITTERS)}, not {self.jitter!r}")
        if self.deadline is not None:
            msgspec.structs.force_setattr(self, "deadline", duration_s("deadline", self.deadline))


class RetryRule(msgspec.Struct, frozen=True, array_like=True):
    """A `Retry` as it travels: whether is decided where the exception is, when by the dispatcher, by the numbers.

    `classes` is the pickled `(on, not_on)`, which dispatchers never open; empty for the default. `on_limit`: whether
    they hold for `TimeLimitExceeded`, for then nobody is left who could look.
    """

    max: int = 3
    delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 600.0
    jitter: str = "full"
    deadline: float | None = None
    classes: bytes = b""
    on_limit: bool = True


class Options(msgspec.Struct, frozen=True, array_like=True):
    """One submit's options; the names are the public ones.

    `priority`: 0 to 9, 9 first. `countdown`: seconds (or a `timedelta`) before it may start. `name`: shown in output
    and errors. `tags`: text by text. `max_deliveries`: how often it may be running when its worker dies. `queue`:
    with a broker, only workers that take it run the task. `retry`: a `Retry`. `time_limit`: seconds (or a `timedelta`)
    that an attempt may take, the loading of its function and arguments included; then its worker is ended. `expires`:
    seconds (or a `timedelta`) from the submit on; what has not started by then ends EXPIRED.
    """

    priority: int = 0
    countdown: float = 0.0
    name: str | None = None
    tags: dict[str, str] = {}
    max_deliveries: int = 3
    queue: str = "default"
    retry: RetryRule | None = None
    time_limit: float | None = None
    expires: float | None = None

    @property
    def timed(self) -> bool:
        """Whether the dispatcher has to look after when it runs, how long, or how often."""
        return bool(self.countdown or self.expires or self.time_limit or self.retry is not None)

    def replace(self, **changes: Any) -> Options:
        """The same with `changes`; an unknown name is a `TypeError`, a value out of its range a `ValueError`."""
        if unknown := changes.keys() - set(self.__struct_fields__):
            known = ", ".join((*self.__struct_fields__, "eta"))
            raise TypeError(f"no such option: {', '.join(sorted(unknown))} (there are: {known})")
        if isinstance(countdown := changes.get("countdown"), timedelta):
            changes["countdown"] = countdown.total_seconds()
        for name in ("time_limit", "expires"):
            if changes.get(name) is not None:
                changes[name] = duration_s(name, changes[name])
        options: Options = msgspec.structs.replace(self, **changes)
        options.check()
        return options

    def over(self, given: Options) -> Options:
        """These before `given`: what is as nobody has said is as it is there."""
        said = {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(self, name)) != getattr(DEFAULT_OPTIONS, name)
        }
        options: Options = msgspec.structs.replace(given, **said)
        if options.expires is not None and options.countdown >= options.expires:  # of different origin
            options = msgspec.structs.replace(options, expires=self.expires)
        return options

    def check(self) -> None:
        """Raise `ValueError` for what is out of its range."""
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
        if self.retry is not None and not isinstance(self.retry, RetryRule):
            raise ValueError(f"retry is a zmqtasks.Retry, not {self.retry!r}")
        if self.expires is not None and self.countdown >= self.expires:
            raise ValueError(
                f"with a countdown of {self.countdown:g} s it expires before it may start, after {self.expires:g} s"
            )


class Given(TypedDict, total=False):
    """Options as they are written."""

    priority: int
    countdown: Duration
    eta: datetime | None
    tags: dict[str, str]
    max_deliveries: int
    queue: str
    retry: Retry | None
    time_limit: Duration | None
    expires: Duration | None


class Shown(Given, total=False):
    """Those of one call: what it is called, too."""

    name: str | None


DEFAULT_OPTIONS = Options()
DEFAULT_RETRY = RetryRule()  # of a task that asks for another attempt and has no rule of its own


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are written, with a `Retry` and an `eta`; errors as those of `Options.replace`."""
    if (retry := given.get("retry")) is not None and not isinstance(retry, Retry):
        raise TypeError(f"retry is a zmqtasks.Retry, not {retry!r}")
    if (eta := given.get("eta")) is not None and not isinstance(eta, datetime):
        raise TypeError(f"eta is a datetime, not {eta!r}")
    DEFAULT_OPTIONS.replace(**{name: value for name, value in given.items() if name not in ("eta", "retry")})
    return dict(given)
