"""The output: lines that survive, and a run that goes on where another has ended, with the same inputs."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import resource
import signal
import stat
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import RunPython
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks.errors import InputChanged, OutputFailed, UnusableFile
from zmqtasks.stream.compression import codec_of, inflated
from zmqtasks.stream.inputs import Files
from zmqtasks.stream.item import BadInput
from zmqtasks.stream.present import Line, Present
from zmqtasks.stream.rendering import RenderedFunction
from zmqtasks.stream.results import Output


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def fails_on_b(item: Any) -> Any:
    if item == "b":
        raise ValueError
    return item


def lines(items: list[Any], indexes: range | list[int] | None = None) -> list[bytes]:
    """Return the lines that items have."""
    rendered = RenderedFunction(fails_on_b)
    values = [rendered(index, items[index]) for index in indexes or range(len(items))]
    return [value if isinstance(value, bytes) else value.out for value in values]


# ---- writing ----------------------------------------------------------------------------------------------------


def test_lines_are_appended(path: Path) -> None:
    with Output(path) as output:
        output.write(b"1\n2\n")
        assert path.read_bytes() == b"1\n2\n"
        output.write(b"3\n")
    assert path.read_bytes() == b"1\n2\n3\n"


def test_what_was_written_survives_the_process(path: Path, run_python: RunPython) -> None:
    program = f"""
import os, signal
from zmqtasks.stream.results import Output
Output({str(path)!r}).write(b"1\\n" * 1000)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_python("-c", program).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"1\n" * 1000


def test_a_file_that_is_there_is_kept_unless_it_is_to_be_replaced(path: Path) -> None:
    path.write_text("mine\n")
    with pytest.raises(UnusableFile) as caught:
        Output(path)
    assert str(caught.value) == f"'{path}' is there: --resume goes on with it, --overwrite replaces it"
    assert path.read_text() == "mine\n"
    with Output(path, overwrite=True) as output:
        output.write(b"1\n")
    assert path.read_text() == "1\n"


@pytest.mark.parametrize(
    ("name", "error"),
    [("none/out", "No such file or directory"), (".", "Is a directory"), ("out/out", "Not a directory")],
)
def test_what_cannot_be_written_is_said_at_once(path: Path, name: str, error: str) -> None:
    (path.parent / "out").touch()
    with pytest.raises(UnusableFile) as caught:
        Output(path.parent / name)
    assert str(caught.value) == f"cannot write '{path.parent / name}': {error}"


def test_a_full_disk_is_said() -> None:
    with Output("/dev/full") as output, pytest.raises(OutputFailed) as caught:
        output.write(b"1\n")
    assert str(caught.value) == "cannot write '/dev/full': No space left on device"


def test_a_file_may_not_grow_for_ever(path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, limits[1]))  # python ignores SIGXFSZ
    try:
        with Output(path) as output, pytest.raises(OutputFailed, match=r"cannot write '.*': File too large"):
            output.write(b"12\n34\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"12\n", "a write in parts is gone on with"


def test_a_pipe_that_nobody_reads_is_the_end() -> None:
    out, into = os.pipe()
    with Output(f"/dev/fd/{into}") as output:
        os.close(into)
        output.write(b"1\n")
        assert os.read(out, 10) == b"1\n"
        os.close(out)
        with pytest.raises(BrokenPipeError):
            output.write(b"2\n")


@pytest.mark.parametrize("name", [None, "-"])
def test_standard_output_stays_open(name: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    for text in (b"1\n", b"2\n"):
        with Output(name) as output:
            output.write(text)
    assert capfd.readouterr().out == "1\n2\n"


def test_two_runs_do_not_write_to_one_file(path: Path) -> None:
    with Output(path) as output:
        output.write(b"1\n")
        for options in ({"overwrite": True}, {"resume": True}, {"resume_failed": True}):
            with pytest.raises(UnusableFile, match=r"^another run writes to '"):
                Output(path, **options)
    assert path.read_text() == "1\n"


def test_compressed_output_is_whole_after_each_write(path: Path) -> None:
    gz = Path(f"{path}.gz")
    with Output(gz) as output:
        for number in range(3):
            output.write(b"%d\n" % number)
            assert gzip.decompress(gz.read_bytes()) == b"0\n1\n2\n"[: 2 * number + 2]
    assert next(Files([gz]).batches()) == (0, ["0"])


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("torn", [0, 1, 3, 20], ids=lambda torn: f"{torn} bytes torn off")
def test_compressed_output_is_gone_on_with(path: Path, ending: str, torn: int) -> None:
    if ending == "zst":
        pytest.importorskip("zstandard")
    path = path.with_suffix(f".{ending}")
    items = ["a", "b", "c", "d"]
    first, failed, *rest = lines(items)
    with Output(path) as output:
        output.write(first + failed)
        size = path.stat().st_size
        output.write(rest[0])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - torn])
    with Output(path, resume=True) as output:
        assert (output.cut, output.failed) == (0 if not torn else len(whole) - torn - size, 1)
        done = 3 if not torn else 2
        assert list(output.present.remaining([(0, items)])) == [(done, items[done:])]
        output.write(b"".join(rest[done - 2 :]))
    path.write_bytes(path.read_bytes() + b"\0" * 5)  # as a file system may, after a crash
    with Output(path, resume_failed=True) as output:
        assert (output.cut, output.taken_out) == (5, 1)
        assert list(output.present.remaining([(0, items)])) == [(1, ["b"])]
        output.write(failed)
    codec = codec_of(str(path))
    assert codec is not None
    assert b"".join(inflated([path.read_bytes()], codec)) == b"".join([first, *rest, failed])


def test_a_compressed_output_that_cannot_be_cut_is_left_alone(path: Path) -> None:
    gz = path.with_suffix(".gz")
    whole = gzip.compress(b"".join(lines(["a"])))
    for data, said in (
        (
            gzip.compress(b'{"index": 0, "inp'),
            "its last line is torn, and is compressed with those before it",
        ),
        (whole + b"nonsense", f"it is damaged after {len(whole)} bytes: "),
    ):
        gz.write_bytes(data)
        with pytest.raises(UnusableFile) as caught:
            Output(gz, resume=True)
        assert str(caught.value).startswith(f"cannot resume '{gz}': {said}")
        assert gz.read_bytes() == data


def test_zstandard_too(path: Path) -> None:
    if sys.version_info < (3, 14):
        pytest.importorskip("zstandard")
    zst = Path(f"{path}.zst")
    with Output(zst) as output:
        output.write(b"1\n")
        output.write(b"2\n")
    assert [item for _, batch in Files([zst]).batches() for item in batch] == ["1", "2"]


# ---- going on ---------------------------------------------------------------------------------------------------

ITEMS: list[Any] = ["a", "b", {"x": 1, "a": [2.0, None]}, "é\n", 5]


def finish(path: Path, items: list[Any], **options: bool) -> Output:
    """Resume an output and do the rest."""
    with Output(path, **(options or {"resume": True})) as output:
        for first, run in output.present.remaining([(0, items[:2]), (2, items[2:])]):
            output.write(b"".join(lines(items, [*range(first, first + len(run))])))
    return output


def test_it_goes_on_wherever_it_was_torn(path: Path) -> None:
    whole = b"".join(lines(ITEMS))
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        output = finish(path, ITEMS)
        assert path.read_bytes() == whole
        ends = whole[:size].rfind(b"\n") + 1
        assert output.cut == size - ends
        assert len(output.present) == whole[:ends].count(b"\n")
        assert output.failed == (len(output.present) > 1)


@given(st.permutations(range(5)), st.integers(0, 5))
def test_it_goes_on_in_any_order(order: list[int], done: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "out")
        path.write_bytes(b"".join(lines(ITEMS, order[:done]) if done else []))
        finish(path, ITEMS)
        assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines(ITEMS))


def test_a_file_that_is_not_there_is_begun(path: Path) -> None:
    assert len(finish(path, ITEMS).present) == 0
    assert path.read_bytes() == b"".join(lines(ITEMS))
    assert len(finish(path, ITEMS).present) == 5


def test_lines_that_went_through_other_tools_are_known(path: Path) -> None:
    again = [json.dumps(dict(reversed(json.loads(line).items())), indent=None) for line in lines(ITEMS)]
    path.write_text("".join(line + "\n" for line in again))
    assert len(finish(path, [*ITEMS[:2], {"a": [2.0, None], "x": 1}, *ITEMS[3:]]).present) == 5


@pytest.mark.parametrize("place", range(5))
def test_other_inputs_are_refused_and_the_first_is_named(path: Path, place: int) -> None:
    path.write_bytes(b"".join(lines(ITEMS)))
    changed = [*ITEMS]
    for index in range(place, 5):
        changed[index] = f"{'new' * 30} {index}"
    with pytest.raises(InputChanged) as caught:
        finish(path, changed)
    assert str(caught.value) == (
        f"'{path}' was made from other inputs: that of index {place} is the first that differs,"
        f' now "{("new" * 30)[:59]}...'
    )


def test_fewer_inputs_are_other_inputs(path: Path) -> None:
    path.write_bytes(b"".join(lines(ITEMS)))
    with pytest.raises(InputChanged, match=r"it has 5 of them, and now there are 4"):
        finish(path, ITEMS[:4])
    with pytest.raises(InputChanged, match=r"it has 5 of them, and now there are 0"):
        list(Output(path, resume=True).present.remaining([]))


def test_what_could_not_be_read_is_known_again(path: Path) -> None:
    bad = BadInput("f", 3, "no UTF-8", b"\xff")
    path.write_bytes(RenderedFunction(str)(0, bad).out)
    with Output(path, resume=True) as output:
        assert output.present.has(0, bad)
        assert not output.present.has(1, bad)
        with pytest.raises(InputChanged):
            output.present.has(0, bad._replace(raw=b"\xfe"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b'{"index": 0, "input": 1}\n\n', "line 2 is no result: Input data was truncated"),
        (b"hello\n", "line 1 is no result: JSON is malformed"),
        (b"[1]\n", "line 1 is no result: Expected `object`, got `array`"),
        (b'{"index": "0", "input": 1}\n', "line 1 is no result: Expected `int`, got `str`"),
        (b'{"index": -1, "input": 1}\n', "line 1 is no result: its index is -1"),
        (b"\0\0\0\n", "line 1 is no result: JSON is malformed"),
        (b'{"index": 0, "input": 1}\n{"index": 0, "input": 1}\n', "line 2 has the index 0 again"),
    ],
)
def test_what_no_pipeline_wrote_is_refused_and_kept(path: Path, text: bytes, complaint: str) -> None:
    path.write_bytes(text)
    for options in ({"resume": True}, {"resume_failed": True}):
        with pytest.raises(UnusableFile) as caught:
            Output(path, **options)
        assert str(caught.value).startswith(f"cannot resume '{path}': {complaint}")
    assert path.read_bytes() == text


def test_what_cannot_be_resumed(path: Path) -> None:
    with pytest.raises(UnusableFile, match=r"^to resume needs an output file: -o FILE$"):
        Output(None, resume=True)
    with pytest.raises(UnusableFile, match=r"^cannot resume '/dev/null', which is no file$"):
        Output("/dev/null", resume_failed=True)


def test_an_order_is_kept_or_refused(path: Path) -> None:
    path.write_bytes(b"".join(lines(ITEMS, [0, 1, 2])))
    assert len(finish(path, ITEMS, resume=True, ordered=True).present) == 3
    path.write_bytes(b"".join(lines(ITEMS, [0, 2])))
    with pytest.raises(UnusableFile, match=r"line 2 has the index 2 \(--unordered\)$"):
        Output(path, resume=True, ordered=True)
    assert len(finish(path, ITEMS).present) == 2


# ---- doing failures again ---------------------------------------------------------------------------------------


def test_failures_are_taken_out_and_done_again(path: Path) -> None:
    whole = lines(ITEMS)
    path.write_bytes(b"".join(whole) + whole[0][:10])
    path.chmod(0o640)
    link = path.parent / "link"
    link.symlink_to(path)
    output = finish(link, ITEMS, resume_failed=True)
    assert (output.taken_out, output.failed, output.cut, len(output.present)) == (1, 0, 10, 4)
    assert path.read_bytes() == b"".join([whole[0], *whole[2:], whole[1]])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert {file.name for file in path.parent.iterdir()} == {"out.jsonl", "link"}


def test_without_failures_the_file_stays_what_it_is(path: Path) -> None:
    path.write_bytes(b"".join(lines(ITEMS, [0, 2])))
    inode = path.stat().st_ino
    assert finish(path, ITEMS, resume_failed=True, ordered=False).taken_out == 0
    assert path.stat().st_ino == inode


def test_failures_done_again_have_no_order(path: Path) -> None:
    path.write_bytes(b"".join(lines(ITEMS)))
    with pytest.raises(UnusableFile, match=r": 1 of it are to be done again \(--unordered\)$"):
        Output(path, resume_failed=True, ordered=True)
    assert path.read_bytes() == b"".join(lines(ITEMS))


def test_the_file_is_this_runs_own_after_failures_are_taken_out(path: Path) -> None:
    path.write_bytes(b"".join(lines(ITEMS)))
    with Output(path, resume_failed=True), path.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_until_failures_are_taken_out_the_old_file_is_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"".join(lines(ITEMS)))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UnusableFile, match=r"^cannot take the failures out of '.*': No space left on device$"
    ):
        Output(path, resume_failed=True)
    monkeypatch.undo()
    assert path.read_bytes() == b"".join(lines(ITEMS))
    assert finish(path, ITEMS, resume_failed=True, ordered=False).taken_out == 1


# ---- what is there ----------------------------------------------------------------------------------------------


def test_runs_are_what_is_missing() -> None:
    present = Present("f")
    for index in (1, 2, 5, 4099):
        present.add(1, Line(index, msgspec.Raw(b"%d" % index)))
    batches = [(0, [0, 1, 2, 3]), (4, [4, 5]), (6, [6, 7]), (8, []), (4098, [4098, 4099, 4100])]
    assert list(present.remaining(batches)) == [
        (0, [0]),
        (3, [3]),
        (4, [4]),
        (6, [6, 7]),
        (4098, [4098]),
        (4100, [4100]),
    ]


def test_an_input_takes_eight_bytes() -> None:
    present = Present("f")
    tracemalloc.start()
    for index in range(20_000):
        present.add(1, Line(index, msgspec.Raw(b'"a rather long input, of which nothing is kept"')))
    assert tracemalloc.get_traced_memory()[0] < 200_000
    tracemalloc.stop()
