"""A stream of inputs through a function on many workers, peer to peer: `Ventilator`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, get_args

from zmqtasks import joins
from zmqtasks.errors import UnknownTask
from zmqtasks.names import called, found
from zmqtasks.nodes.cpus import cpus
from zmqtasks.options import Retry
from zmqtasks.pipe import Pipe, reading
from zmqtasks.results import OnError, Results
from zmqtasks.workflow import Chord, Group, Map, Once, Signature, Workflow

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

WINDOW = 100_000  # inputs


class Ventilator(Generic[T, R]):
    """Workers for one function, `fn` of an input, and as many runs over inputs as you like, one after the other.

    `workers`: children on this machine (default: the CPUs that this process may use; none if there is a `bind`).
    `bind`: an address that workers of other machines can reach (`zmqtasks worker --ventilator ADDRESS`), with keys as a
    broker has them; without it nobody else can. `retry`, `time_limit`, `max_deliveries` are each input's options.
    `window`: how many inputs may be on their way, or have an outcome that nobody has taken, at a time; and 64 MiB.

    Use it in a `with`, or call `close`.
    """

    def __init__(
        self,
        fn: Callable[[T], R],
        *,
        workers: int | None = None,
        bind: str | None = None,
        retry: Retry | None = None,
        time_limit: float | None = None,
        max_deliveries: int = 3,
        name: str | None = None,
        window: int = WINDOW,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"a pipeline runs a function, not {fn!r}")
        if workers is None:
            workers = 0 if bind is not None else cpus()
        for what, number, least in (
            ("workers", workers, 0 if bind is not None else 1),
            ("window", window, 1),
        ):
            if not isinstance(number, int) or isinstance(number, bool):  # type: ignore[redundant-expr]  # anything may be passed
                raise TypeError(f"{what} is an int, not {number!r}")
            if number < least:
                raise ValueError(f"{what} is {least} or more, not {number}")
        if bind is not None and not isinstance(bind, str):
            raise TypeError(f"bind is an address such as tcp://127.0.0.1:5557, not {bind!r}")
        self._fn = fn
        self._pipe = Pipe(
            fn, workers=workers, bind=bind, retry=retry, window=window, time_limit=time_limit,
            max_deliveries=max_deliveries, name=name,
        )  # fmt: skip

    @property
    def address(self) -> str:
        """Where workers find it."""
        return self._pipe.node.address

    @property
    def workers(self) -> dict[str, int]:
        """The workers that are here, by name: how many inputs each runs at a time."""
        return self._pipe.node.workers

    # ---- runs ----------------------------------------------------------------------------------------------------

    def run(
        self, items: Iterable[T] | Workflow, *, ordered: bool = False, on_error: OnError = "raise"
    ) -> Results[R]:
        """Run `items` through the function: (index, value) of each, once; as they come, or in order.

        A map, or a group of calls of the function with one argument, says the items too. They are read as they are
        needed, in another thread; what they raise comes when all before it is out. `on_error`: an input that fails for
        good raises its exception and ends the run ("raise"), comes with the exception in the value's place ("yield"),
        or not at all ("skip"). A run that begins ends the one before.
        """
        if on_error not in get_args(OnError):
            raise ValueError(f'on_error is "raise", "yield" or "skip", not {on_error!r}')
        return Results(self._pipe.begin(reading(self._items(items)), ordered=ordered), on_error)

    def chord(
        self,
        items: Iterable[T] | Workflow,
        body: Callable[[list[R]], S] | None = None,
        *,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> S:
        """Run `items`, and then, once, `body` with the list of their values in order; what it returns.

        Or `zmqtasks.chord(header, body)` says both. An input that fails for good raises, and `body` does not run; or it
        is left out ("skip").
        """
        skips = _skips(on_error)
        if isinstance(items, Chord):
            if body is not None:
                raise TypeError("the chord has a body: there is no place for another")
            body = _body_of(items)
            items = items.header
        if body is None:
            raise TypeError("a chord has a body: what is called with the list of values")
        return joins.chord(self._pipe.begin(reading(self._items(items)), ordered=True), body, skips=skips)

    def fold(
        self,
        items: Iterable[T] | Workflow,
        step: Callable[[S, R], S],
        initial: S,
        *,
        ordered: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> S:
        """Run `items`, and fold their values as they come, or in order: `state = step(state, value)`, first `initial`.

        Nothing but the state is kept. An input that fails for good raises, or is left out ("skip").
        """
        skips = _skips(on_error)
        pieces = self._pipe.begin(reading(self._items(items)), ordered=ordered, keep=True)
        return joins.fold(pieces, step, initial, window=self._pipe.window, skips=skips)

    def _items(self, given: Iterable[T] | Workflow) -> Iterable[T]:
        """The inputs; those that a map or group of calls has, if it is of the pipeline's function."""
        if not isinstance(given, Workflow):
            return given
        _check_plain(given)
        if isinstance(given, Map) and not given.star and given.failure == "fail_fast":
            self._check_fn(given.task)
            return given.items.take() if isinstance(given.items, Once) else given.items
        if isinstance(given, Group) and given.failure == "fail_fast":
            members = given.members
            inputs = map(self._argument, members.take() if isinstance(members, Once) else members)
            return inputs if isinstance(members, Once) else list(inputs)
        raise _shape(given)

    def _argument(self, member: Any) -> T:
        if not isinstance(member, Signature) or member.kwargs or len(member.args) != 1:
            raise _shape(member)
        _check_plain(member)
        self._check_fn(member.task)
        argument: T = member.args[0]
        return argument

    def _check_fn(self, task: Any) -> None:
        if called(task) is not called(self._fn) and called(task) != called(self._fn):
            raise TypeError(f"a pipeline has one function, {self._fn!r:.80}: it does not run {task!r:.80}")

    def close(self) -> None:
        """Stop the run that is on, and end the workers."""
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _skips(on_error: str) -> bool:
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is "raise" or "skip" here, not {on_error!r}')
    return on_error == "skip"


def _shape(given: Any) -> TypeError:
    return TypeError(
        "a pipeline runs a map, or a group of calls of its one function with one argument, and a chord of either: "
        f"client.run runs {given!r:.80}"
    )


def _check_plain(given: Workflow) -> None:
    if given.options or given.links or given.errors:
        raise TypeError(f"a pipeline has options of its own, and no links: it does not run {given!r:.80}")


def _body_of(chord: Chord) -> Callable[[list[Any]], Any]:
    _check_plain(chord)
    body = chord.body
    if not isinstance(body, Signature):
        raise _shape(body)
    _check_plain(body)
    task = found(body.task)
    if not callable(task):
        raise UnknownTask(f"no task {task!r} is known here")
    args, kwargs, takes = body.args, body.kwargs, not body.immutable

    def call(values: list[Any]) -> Any:
        return task(values, *args, **kwargs) if takes else task(*args, **kwargs)

    return call
