"""A run of `zmqtasks ventilator`: inputs go in, results come out, and somebody watches how far it is."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from zmqtasks.errors import InputFailed
from zmqtasks.stream.batch import Batch
from zmqtasks.stream.inputs import Inputs
from zmqtasks.stream.item import BadInput
from zmqtasks.stream.notation import as_json
from zmqtasks.stream.present import Present
from zmqtasks.stream.progress import Lines, Snapshot
from zmqtasks.stream.results import Output

_log = logging.getLogger("zmqtasks")

Batches = Iterator[tuple[int, list[Any]]]


class Engine(Protocol):
    """What a run asks of the pipeline: its workers, and three ways to go through inputs."""

    @property
    def address(self) -> str:
        """Where workers of other machines find it; "" if there is no such place."""

    @property
    def workers(self) -> dict[str, int]:
        """Those that are there, by name: how many inputs each has at a time."""

    @property
    def failed_before(self) -> int:
        """How many failures a sink elsewhere has in its output that were not delivered."""

    def wait_for_sink(self) -> Present | None:
        """What a sink elsewhere has found in its output, once it answers; None if there is no such sink."""

    def run_rendered(self, batches: Batches, deliver: Callable[[int, Batch], None], *, ordered: bool) -> None:
        """Run the items of `batches`, read in another thread, and deliver each once, by the index of a batch's first.

        What is delivered has left the window when `deliver` returns. What reading raises is raised when all before it
        is delivered; what `deliver` raises ends the run.
        """

    def chord(self, items: Iterable[Any], body: Callable[[list[Any]], Any]) -> Any:
        """Run `items`, then `body` with the values in order; what it returns."""

    def fold(self, items: Iterable[Any], step: Callable[[Any, Any], Any], initial: Any) -> Any:
        """Run `items` and fold the values as they come; the last state."""

    def stop(self, *, cold: bool = False) -> None:
        """Read no more: `run_rendered` returns when what runs is delivered, or (`cold`, or called again) at once.

        For signal handlers too.
        """


class Display(Protocol):
    """What shows how far a run is."""

    def show(self, snapshot: Snapshot) -> None:
        """Show it, if that is due."""

    def close(self, snapshot: Snapshot) -> None:
        """Show the end."""


class NoDisplay:
    """Shows nothing."""

    def show(self, snapshot: Snapshot) -> None:
        """Do nothing."""

    def close(self, snapshot: Snapshot) -> None:
        """Do nothing."""


def display(*, asked: bool | None, to_stdout: bool) -> Display:
    """Return a bar on a terminal, unless results are shown on it too, and lines elsewhere; `asked` for or not."""
    if asked is False or sys.stderr is None:
        return NoDisplay()
    if not sys.stderr.isatty():
        return Lines(lambda line: sys.stderr.write(f"zmqtasks: {line}\n"), time.monotonic)
    if to_stdout and asked is None and sys.stdout.isatty():
        return NoDisplay()
    from rich.console import Console

    from zmqtasks.cli.bar import Bar

    return Bar(Console(stderr=True))


class Reduction:
    """A step of two results as a fold: the state is none, or one in a tuple, so that the first result begins it."""

    def __init__(self, step: Callable[[Any, Any], Any]) -> None:
        self._step = step

    def __call__(self, state: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        """Return the state after a value."""
        return (self._step(state[0], value),) if state else (value,)


class Run:
    """Inputs on their way through an engine to an output. `halt`: how many failures end it; 0 is never."""

    def __init__(self, inputs: Inputs, output: Output, shown: Display, *, halt: int = 0) -> None:
        self._inputs = inputs
        self._output = output
        self._present = output.present
        self._display = shown
        self._halt = halt
        self._engine: Engine | None = None
        self._read = 0  # in the reader's thread
        self._done = 0
        self._left_out: list[int] = []  # of a join, inputs that could not be read
        self.failed = 0
        self.is_halted = False

    def go(self, engine: Engine, *, ordered: bool) -> None:
        """Run all of it, or until it is stopped."""
        self._engine = engine
        try:
            engine.run_rendered(self.batches(), self.deliver, ordered=ordered)
        finally:
            self._display.close(self._snapshot())

    def join(self, engine: Engine, body: Callable[..., Any], *, folds: bool, text: bool) -> bytes:
        """Run all of it and join the results: what the output has of that. Inputs that cannot be read are left out."""
        items = (item for first, batch in self.batches() for item in self._good(first, batch))
        try:
            if folds:
                state = engine.fold(items, Reduction(body), ())
                value = state[0] if state else None
            else:
                value = engine.chord(items, body)
        except InputFailed as error:
            for index in self._left_out:  # in order: those before it were not counted
                error.index += index <= error.index
            raise
        return value.encode() + b"\n" if text and isinstance(value, str) else as_json(value) + b"\n"

    def _good(self, first: int, items: list[Any]) -> Iterator[Any]:
        for index, item in enumerate(items, first):
            if type(item) is BadInput:
                self.failed += 1
                self._left_out.append(index)
                sys.stderr.write(f"zmqtasks: input {index}: {item}\n")
            else:
                yield item

    def batches(self) -> Batches:
        """Yield what is to be done."""
        found = self._inputs.batches()
        if self._engine is not None and (there := self._engine.wait_for_sink()) is not None:
            self._present = there
        for first, items in self._present.remaining(found) if len(self._present) else found:
            self._read += len(items)
            yield first, items

    def deliver(self, _first: int, batch: Batch) -> None:
        """Write what became of some inputs."""
        if lines := b"".join(batch.outs):
            self._output.write(lines)
        if batch.errs:  # through Python's own, which a bar knows to get out of the way of
            errs = b"".join(batch.errs[place] for place in sorted(batch.errs))
            sys.stderr.write(errs.decode("utf-8", "backslashreplace"))
            sys.stderr.flush()
        self._done += len(batch)
        self.failed += len(batch.failed)
        if self._halt and self.failed >= self._halt and not self.is_halted:
            self.is_halted = True
            assert self._engine is not None, "an engine delivers"
            self._engine.stop()
        self._display.show(self._snapshot())

    def _snapshot(self) -> Snapshot:
        inputs, kept = self._inputs, len(self._present)
        return Snapshot(
            done=self._done,
            failed=self.failed,
            total=None if inputs.total is None else inputs.total - kept,
            bytes_done=inputs.bytes_done,
            bytes_total=inputs.bytes_total,
            workers=sum(self._engine.workers.values()) if self._engine is not None else 0,
            window=self._read - self._done,
            kept=kept,
        )


def tell(output: Output) -> None:
    """Say what was found in an output that is gone on with."""
    if output.cut:
        what = "end" if output.is_compressed else "last line"
        _log.warning("%s: the %s was torn (%d bytes), and is cut off", output.path, what, output.cut)
    if len(output.present) or output.taken_out:
        again = f", {output.taken_out} failures are done again" if output.taken_out else ""
        _log.info("%s: %d results are there%s", output.path, len(output.present), again)
