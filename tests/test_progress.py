"""The progress bar over futures: what it yields, and what it shows on a terminal and elsewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from terminal import COLUMNS, on_a_terminal

from zmqtasks import progress, progress_bar

if TYPE_CHECKING:
    from conftest import RunPython

    from zmqtasks import Client


def done(value: Any = None) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock that stands still until a test moves its `now`."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_futures_come_as_they_complete(capsys: pytest.CaptureFixture[str], clock: SimpleNamespace) -> None:
    first, second, third = (Future[int]() for _ in range(3))
    second.set_result(2)
    shown = progress_bar([first, second, third])
    assert next(shown) is second
    third.set_result(3)
    assert next(shown) is third
    first.set_result(1)
    assert next(shown) is first
    clock.now += 2
    assert next(shown, None) is None
    assert capsys.readouterr() == ("", "3 of 3 in 2.0 s, 1.5/s\n")


def test_failures_are_counted_and_yielded_like_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    broken, cancelled = Future[int](), Future[int]()
    broken.set_exception(ValueError("no"))
    cancelled.cancel()
    fine = done()
    assert list(progress_bar([broken, fine, cancelled], "work")) == [broken, fine, cancelled]
    assert re.fullmatch(r"work: 3 of 3 in [\d.]+ s, \S+/s, 2 failed\n", capsys.readouterr().err)


def test_a_future_that_is_there_twice_comes_once(capsys: pytest.CaptureFixture[str]) -> None:
    future = done()
    assert list(progress_bar(iter([future, future]))) == [future]
    assert capsys.readouterr().err.startswith("1 of 1 in")


def test_nothing_is_done_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar([])) == []
    assert re.fullmatch(r"0 of 0 in \d+\.\d s\n", capsys.readouterr().err)


def test_a_generator_is_read_to_its_end_and_its_length_is_found_or_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(list(progress_bar(done() for _ in range(3)))) == 3
    assert len(list(progress_bar((done() for _ in range(3)), total=4))) == 3
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("3 of 3 in")
    assert second.startswith("3 of 4 in")


class MadeWhenLookedAt(Sequence[Future[int]]):
    """As what `submit_many` returns: a length, and items that come into being one by one."""

    def __init__(self) -> None:
        self.made: dict[int, Future[int]] = {}

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.made.setdefault(index, done(index))


def test_a_sequence_may_make_its_futures_when_they_are_looked_at() -> None:
    futures = MadeWhenLookedAt()
    assert [future.result() for future in progress_bar(futures)] == [0, 1, 2, 3, 4]
    assert len(futures.made) == 5


def test_a_line_comes_every_few_seconds_if_something_has_moved(
    capsys: pytest.CaptureFixture[str], clock: SimpleNamespace
) -> None:
    waiting = [Future[int]() for _ in range(24)]
    shown = progress_bar(waiting, "work")
    for number, future in enumerate(waiting):
        future.set_result(number)
        assert next(shown) is future
        clock.now += 0.25
    assert next(shown, None) is None
    assert capsys.readouterr().err == (
        "work: 21 of 24 (87%), 4.2/s, 1 s left\n"  # the first after five seconds
        "work: 24 of 24 in 6.0 s, 4.0/s\n"
    )


def test_nothing_is_said_while_nothing_moves(
    capsys: pytest.CaptureFixture[str], clock: SimpleNamespace
) -> None:
    shown = progress.meter("work", 10)
    with shown:
        for _ in range(3):
            clock.now += 60
            shown.draw()
        assert capsys.readouterr().err == ""
        shown.advance(failed=True)
        shown.draw()
        assert capsys.readouterr().err == "work: 1 of 10 (10%), 0.0/s, 1620 s left, 1 failed\n"
    assert capsys.readouterr().err == "work: 1 of 10 in 180.0 s, 0.0/s, 1 failed\n"


def test_leaving_the_loop_ends_the_display(capsys: pytest.CaptureFixture[str]) -> None:
    for future in progress_bar([done(), done(), Future()]):
        assert future.done()
        break
    assert capsys.readouterr().err.startswith("1 of 3 in")


def test_a_process_without_standard_error_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert len(list(progress_bar([done()]))) == 1


def test_futures_of_any_executor() -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(pow, n, 2) for n in range(20)]
        assert sorted(future.result() for future in progress_bar(futures)) == [n * n for n in range(20)]


def test_futures_of_a_client(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    futures = client.submit_many(lambda n: 60 // n, range(-3, 4))
    answers = {future.exception() is None and future.result() for future in progress_bar(futures, "dividing")}
    assert answers == {-20, -30, -60, False, 60, 30, 20}
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("dividing: 7 of 7 in")
    assert line.endswith(", 1 failed")


SCRIPT = """
import sys
from concurrent.futures import Future
from zmqtasks import progress_bar
futures = [Future() for _ in range(1200)]
for future in futures[1:]:
    future.set_result(None)
futures[0].set_exception(ValueError())
for future in progress_bar(futures, "a [bold] name"):
    pass
print("rich" in sys.modules)
"""


def test_a_terminal_gets_a_bar() -> None:
    code, written = on_a_terminal("-c", SCRIPT)
    assert code == 0
    *frames, answer = [line for line in re.split(r"[\r\n]+", written) if line]
    assert answer == "True"
    assert re.fullmatch(r"a \[bold\] name ━+ 1,200/1,200 ( *[\d,]+/s)? \d\d:\d\d 1 failed *", frames[-1])
    assert max(map(len, frames)) <= COLUMNS


def test_where_there_is_no_terminal_rich_is_not_even_loaded(run_python: RunPython) -> None:
    ended = run_python("-c", SCRIPT)
    assert (ended.returncode, ended.stdout) == (0, "False\n")
    assert re.fullmatch(r"a \[bold\] name: 1,200 of 1,200 in [\d.]+ s, [\d,]+/s, 1 failed\n", ended.stderr)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    for term, kind in (("dumb", progress._Lines), ("xterm", progress._Bar)):
        monkeypatch.setenv("TERM", term)
        assert type(progress.meter()) is kind
