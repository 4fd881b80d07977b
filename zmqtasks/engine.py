"""The pipeline as the command line runs it: batches with indexes of their own, results that were rendered, signals."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zmqtasks import joins, keys
from zmqtasks.blobs import stream_of
from zmqtasks.core.gather import Piece
from zmqtasks.errors import InputFailed, NotPicklable, NoWorkers, TargetFailed
from zmqtasks.keys import Key
from zmqtasks.messages import DEAD
from zmqtasks.nodes.intake import Far
from zmqtasks.nodes.window import Unheard
from zmqtasks.nodes.zap import keypair
from zmqtasks.options import Retry
from zmqtasks.payload import error_of, load, load_error
from zmqtasks.pipe import Pipe, Source, reading
from zmqtasks.results import Feeds, Pieces
from zmqtasks.stream.batch import Batch, Unit, pack, unpack
from zmqtasks.stream.present import Present
from zmqtasks.stream.rendering import Named, Rendered

STDERR = 2
PATIENCE_S = 2.0  # after which a worker, or a sink, that is not there is spoken of

_log = logging.getLogger("zmqtasks")

Batches = Iterator[tuple[int, list[Any]]]


class Engine:
    """Workers for `function`: a `Rendered` for `run_rendered`, a `Named` for the joins.

    `sink`: the results are written elsewhere; `key` is the key file that we go there with. `wait_workers`: after so
    many seconds without a worker, a run ends with `NoWorkers`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        workers: int,
        bind: str | None,
        key: Path | None,
        sink: str | None,
        retry: int,
        time_limit: float | None,
        window: int,
        wait_workers: float | None,
    ) -> None:
        self._function = function
        self._wait_workers = wait_workers
        self._has_own = workers > 0
        self._timers: list[threading.Timer] = []
        self._stops = 0
        self._joined: Feeds | None = None  # what reads the inputs of a join
        self._sink = sink
        self._pipe = Pipe(
            function,
            workers=workers,
            bind=bind,
            retry=Retry(retry) if retry else None,
            window=window,
            sink=None
            if sink is None
            else Far(sink, _key(sink, key), lambda unheard: self._render(unheard)[1], _items),
            output=STDERR,  # standard output is for results
            time_limit=time_limit,
        )

    @property
    def address(self) -> str:
        """Where workers of other machines find it; "" if there is no such place."""
        address = self._pipe.node.address
        return "" if address.startswith("ipc:") else address

    @property
    def workers(self) -> dict[str, int]:
        """Those that are there, by name: how many inputs each has at a time."""
        return self._pipe.node.workers

    def wait_for_sink(self) -> Present | None:
        """What a sink elsewhere has found in its output, once it answers; None if there is no such sink."""
        return self._pipe.node.wait_for_sink()

    @property
    def failed_before(self) -> int:
        """How many failures a sink elsewhere has in its output that were not delivered."""
        return self._pipe.node.failed_before

    # ---- runs ----------------------------------------------------------------------------------------------------

    def run_rendered(self, batches: Batches, deliver: Callable[[int, Batch], None], *, ordered: bool) -> None:
        """Run the items of `batches`, read in another thread, and deliver each once, by the index of a batch's first.

        What reading raises is raised when all before it is delivered; what `deliver` raises ends the run.
        """
        pieces = self._begin(lambda pipe: _Batches(pipe, batches), ordered=ordered)
        try:
            for piece in pieces:
                deliver(piece.first, self._batch(piece))
        finally:
            pieces.close()

    def chord(self, items: Iterable[Any], body: Callable[[list[Any]], Any]) -> Any:
        """Run `items`, then `body` with the values in order; what it returns.

        An `InputFailed` if an item fails, `KeyboardInterrupt` if it was stopped.
        """
        pieces = self._begin(self._whole(items), ordered=True, error_of=_failure)
        return joins.chord(pieces, body, skips=False)

    def fold(self, items: Iterable[Any], step: Callable[[Any, Any], Any], initial: Any) -> Any:
        """Run `items` and fold the values as they come; the last state. It raises what `chord` does."""
        pieces = self._begin(self._whole(items), ordered=False, keep=True, error_of=_failure)
        return joins.fold(pieces, step, initial, window=self._pipe.window, skips=False)

    def _whole(self, items: Iterable[Any]) -> Source:
        """What reads `items`, for a join: some of them alone have no value."""
        source = reading(items)

        def begin(pipe: Pipe) -> Feeds:
            self._joined = feeds = source(pipe)
            return feeds

        return begin

    def _begin(self, source: Source, *, ordered: bool, **options: Any) -> Pieces:
        pieces = self._pipe.begin(source, ordered=ordered, **options)
        self._after(PATIENCE_S, self._say_what_is_missing)
        if self._wait_workers is not None:
            self._after(self._wait_workers, self._look_for_workers)
        return pieces

    def _after(self, seconds: float, look: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, look)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def _say_what_is_missing(self) -> None:
        node = self._pipe.node
        if not node.has_sink:
            _log.warning("no sink answers at %s yet: waiting for it", self._sink)
        elif not self._has_own and not self.workers:
            _log.warning("waiting for a worker: zmqtasks worker --ventilator %s", node.address)

    def _look_for_workers(self) -> None:
        if not self.workers:
            self._pipe.node.window.fail(NoWorkers(f"no worker has come within {self._wait_workers:g} s"))

    def stop(self, *, cold: bool = False) -> None:
        """Read no more, and let the run end when what has begun is delivered; or at once: `cold`, or the second time.

        For signal handlers too.
        """
        self._stops += 1
        if self._joined is not None:
            self._joined.error = self._joined.error or KeyboardInterrupt()
        if cold or self._stops > 1:
            self._pipe.node.window.end()
        else:
            self._pipe.node.halt()

    # ---- results -------------------------------------------------------------------------------------------------

    def _batch(self, piece: Piece) -> Batch:
        payload = piece.payload
        if isinstance(payload, Unheard):
            payload = self._render(payload)[1]
        elif piece.failed:
            raise _cannot_run(load_error(payload))
        elif not payload:  # a sink has had it before
            return Batch([b""] * piece.items)
        batch = unpack(stream_of(payload))
        if len(batch) == piece.items:
            return batch
        places = range(piece.skip, piece.skip + piece.items)
        return Batch(
            batch.outs[places.start : places.stop],
            {place - piece.skip: err for place, err in batch.errs.items() if place in places},
            frozenset(place - piece.skip for place in batch.failed if place in places),
        )

    def _render(self, unheard: Unheard) -> tuple[int, bytes]:
        """The index of an input whose failure no worker has told, and its line."""
        task = unheard.task
        index, item = load(task.payload)[1][task.offset]
        error = error_of(unheard.state, unheard.reason, f"of input {index}", "")
        assert isinstance(self._function, Rendered), "what is joined is not rendered"
        attempts = task.options.max_deliveries if unheard.state == DEAD else 1
        attempts += task.course.retries if task.course is not None else 0
        unit: Unit = self._function.failed(index, item, error, attempts)
        return index, pack([unit])

    # ---- as a context manager ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for timer in self._timers:
            timer.cancel()
        self._pipe.close()


class _Batches:
    """Feeds batches as they are read; each item goes with its index."""

    def __init__(self, pipe: Pipe, batches: Batches) -> None:
        self.error: BaseException | None = None
        self._pipe = pipe
        self._batches = batches
        self._stopped = False
        self._feeding = threading.Lock()
        threading.Thread(target=self._run, name="zmqtasks-reader", daemon=True).start()

    def stop(self) -> None:
        """Feed nothing more. A read that blocks is left alone."""
        self._stopped = True
        with self._feeding:
            pass

    def _run(self) -> None:
        complete = False
        try:
            for first, items in self._batches:
                at = 0
                while at < len(items):
                    room = self._pipe.node.wait_for_room()
                    with self._feeding:
                        if self._stopped or not room:
                            return
                        some = items[at : at + room]
                        self._pipe.feed_at(first + at, list(enumerate(some, first + at)))
                    at += len(some)
            complete = True
        except BaseException as error:  # noqa: BLE001 - the inputs': whoever takes the outcomes hears of it
            self.error = error
        finally:
            self._pipe.node.fed_all(complete=complete)


def _items(payload: Any) -> list[Any]:
    """The inputs of a batch."""
    return [item for _index, item in load(payload)[1]]


def _failure(index: int, payload: Any) -> BaseException:
    """What an item of a join has failed with."""
    if isinstance(payload, Unheard) and isinstance(payload.reason, BaseException):
        return InputFailed(index, f": {_line(payload.reason)}")
    if isinstance(payload, Unheard):
        item = load(payload.task.payload)[1][payload.task.offset]
        return Named.failed(index, item, error_of(payload.state, payload.reason, "of this input", ""))
    error = load_error(payload)
    if isinstance(error, InputFailed):
        error.index = index
        return error
    if isinstance(error, NotPicklable):
        return InputFailed(index, f": {error}")
    return _cannot_run(error)


def _cannot_run(error: BaseException) -> TargetFailed:
    return TargetFailed(f"a worker cannot run it: {_line(error)}")


def _key(sink: str, path: Path | None) -> Key | None:
    if sink.startswith("ipc:"):
        return None
    return keys.load(None if path is None else str(path), "client", keypair, address=sink)


def _line(error: BaseException) -> str:
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
