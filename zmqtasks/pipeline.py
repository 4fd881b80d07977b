"""A stream of inputs through a function on many workers, peer to peer: `Ventilator`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar, get_args

from zmqtasks import joins
from zmqtasks.nodes.cpus import cpus
from zmqtasks.options import Retry
from zmqtasks.pipe import Pipe, reading
from zmqtasks.results import OnError, Results

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

    def run(self, items: Iterable[T], *, ordered: bool = False, on_error: OnError = "raise") -> Results[R]:
        """Run `items` through the function: (index, value) of each, once; as they come, or in order.

        `items` are read as they are needed, in another thread; what they raise comes when all before it is out.
        `on_error`: an input that fails for good raises its exception and ends the run ("raise"), comes with the
        exception in the value's place ("yield"), or not at all ("skip"). A run that begins ends the one before.
        """
        if on_error not in get_args(OnError):
            raise ValueError(f'on_error is "raise", "yield" or "skip", not {on_error!r}')
        return Results(self._pipe.begin(reading(items), ordered=ordered), on_error)

    def chord(
        self,
        items: Iterable[T],
        body: Callable[[list[R]], S],
        *,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> S:
        """Run `items`, and then, once, `body` with the list of their values in order; what it returns.

        An input that fails for good raises, and `body` does not run; or it is left out ("skip").
        """
        skips = _skips(on_error)
        return joins.chord(self._pipe.begin(reading(items), ordered=True), body, skips=skips)

    def fold(
        self,
        items: Iterable[T],
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
        pieces = self._pipe.begin(reading(items), ordered=ordered, keep=True)
        return joins.fold(pieces, step, initial, window=self._pipe.window, skips=skips)

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
