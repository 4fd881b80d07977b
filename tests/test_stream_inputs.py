"""Inputs: every line once whatever the blocks are, what is said of bad ones, and files that cannot be read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pickle
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import RunPython
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks.errors import BadInputError, UnusableFile
from zmqtasks.stream import formats, table
from zmqtasks.stream.compression import codec_of, inflated
from zmqtasks.stream.inputs import READERS, Files, Format, Inputs, Values
from zmqtasks.stream.item import BadInput


def read(inputs: Inputs, items_max: int = 3) -> list[Any]:
    """Return all items, having seen that their indexes are in order."""
    found: list[Any] = []
    for first, batch in inputs.batches(items_max):
        assert first == len(found)
        assert 0 < len(batch) <= items_max
        found += batch
    return found


def parsed(data: bytes, format_: Format, block_bytes: int) -> list[Any]:
    blocks = (data[at : at + block_bytes] for at in range(0, len(data), block_bytes))
    return [value for values in READERS[format_]("f", blocks) for value in values]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


sizes = st.integers(1, 12)

# ---- lines ------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\r\n", "é".encode(), b"\xff", b"\xe9", b"\0"])), sizes)
def test_lines_are_the_same_in_blocks_of_any_size(parts: list[bytes], block_bytes: int) -> None:
    data = b"".join(parts)
    wanted: list[Any] = []
    for number, raw in enumerate(io.BytesIO(data), 1):
        raw = raw.removesuffix(b"\n") if not raw.endswith(b"\r\n") else raw[:-2]  # noqa: PLW2901 - without its end
        try:
            wanted.append(raw.decode())
        except UnicodeDecodeError as error:
            reason = f"no UTF-8: byte 0x{raw[error.start]:02x} at {error.start}"
            wanted.append(BadInput("f", number, reason, raw))
    assert parsed(data, "lines", block_bytes) == wanted


def test_other_ends_of_lines_are_no_ends() -> None:
    assert parsed("a\x0bb\u2028c\x85d\re\n".encode(), "lines", 100) == ["a\x0bb\u2028c\x85d\re"]


@pytest.mark.parametrize("format_", READERS)
def test_a_line_without_end_does_not_fill_the_memory(
    format_: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (formats, table):
        monkeypatch.setattr(module, "RECORD_BYTES_MAX", 1 << 20)
    blocks = [b'"a"\n', b'"b"\n', *[b"x" * (1 << 16)] * 64, b'\n"c"\n']
    tracemalloc.start()
    found = [value for values in READERS[format_]("f", blocks) for value in values]
    assert tracemalloc.get_traced_memory()[1] < 3 << 20
    tracemalloc.stop()
    bad = next(value for value in found if isinstance(value, BadInput))
    assert (bad.line, bad.reason, len(bad.raw)) == (3, "longer than 1 MiB", 1024)
    assert found[-1] == {"lines": '"c"', "jsonl": "c", "csv": {"a": "c"}}[format_]


# ---- JSON lines -------------------------------------------------------------------------------------------------

jsons: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(jsons), st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"]), sizes)
def test_json_values_are_the_same_in_blocks_of_any_size(
    values: list[Any], end: str, block_bytes: int
) -> None:
    data = "".join(json.dumps(value, ensure_ascii=False) + end for value in values).encode()
    assert parsed(data, "jsonl", block_bytes) == values
    assert parsed(data.rstrip(), "jsonl", block_bytes) == values


def test_json_that_no_worker_could_be_sent_is_bad_input() -> None:
    deep = [b"[" * depth + b"]" * depth for depth in (200, 201)]
    objects = [b'{"a":' * depth + b"1" + b"}" * depth for depth in (200, 201)]
    wide = b"[" + b"[[]]," * 300 + b"1]"
    found = parsed(b"\n".join([*deep, *objects, wide]), "jsonl", 99)
    assert [bad[:3] for bad in found if isinstance(bad, BadInput)] == [
        ("f", 2, "nested more than 200 deep"),
        ("f", 4, "nested more than 200 deep"),
    ]
    assert [pickle.loads(pickle.dumps(item)) for item in found] == found


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "no JSON: Input data was truncated"),
        (b"1 2", "no JSON: JSON is malformed: trailing characters (byte 3)"),
        (b"NaN", "no JSON: "),
        (b'{"a":\r', "no JSON: "),
        (b'"\xff"', "no UTF-8: byte 0xff at 0"),
        (b"[" * 5000, "no JSON: "),
    ],
)
def test_a_line_that_is_no_json_is_named(raw: bytes, reason: str) -> None:
    first, bad, last = parsed(b"\n1\n\n" + raw + b"\n2", "jsonl", 4)
    assert (first, last) == (1, 2)
    assert (bad.source, bad.line, bad.raw) == ("f", 4, raw)
    assert bad.reason.startswith(reason)


# ---- CSV --------------------------------------------------------------------------------------------------------

cells = st.text(st.sampled_from('ab",\n\r é'), max_size=4)


@given(st.lists(st.tuples(cells, cells, cells)), st.sampled_from(["\n", "\r\n"]), sizes)
def test_rows_are_the_same_in_blocks_of_any_size(
    rows: list[tuple[str, str, str]], end: str, block_bytes: int
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("x", "y y", "z"), *rows])
    found = parsed(text.getvalue().encode(), "csv", block_bytes)
    assert found == [dict(zip(("x", "y y", "z"), row, strict=True)) for row in rows]


@given(st.text(st.sampled_from('a",\n\r'), max_size=12), sizes)
def test_whatever_is_there_is_a_row_or_named(text: str, block_bytes: int) -> None:
    found = parsed(b"x,y\n" + text.encode(), "csv", block_bytes)
    assert all(set(row) == {"x", "y"} if isinstance(row, dict) else row.line > 1 for row in found)
    assert found == parsed(b"x,y\n" + text.encode(), "csv", 1000)


def bads(found: list[Any]) -> list[Any]:
    return [(bad.line, bad.reason, bad.raw) for bad in found if isinstance(bad, BadInput)]


def test_rows_that_are_none_are_named_and_the_next_is_read() -> None:
    found = parsed(
        b'\na,b\n1,2\n1\n1,"2\n3"\n\n1,2,"\n3"\n"1"x,2\n\xff,2\n3,4\n"never,closed\n5,6\n7,8', "csv", 7
    )
    assert bads(found) == [
        (4, "1 fields where the header has 2", b"1"),
        (8, "3 fields where the header has 2", b'1,2,"\n3"'),
        (10, "no CSV: ',' expected after '\"'", b'"1"x,2'),
        (11, "no UTF-8", b"\xff,2"),
        (13, "no CSV: a quote that nothing closes", b'"never,closed'),
    ]
    assert [row for row in found if isinstance(row, dict)] == [
        {"a": "1", "b": "2"},
        {"a": "1", "b": "2\n3"},
        {"a": "3", "b": "4"},
        {"a": "5", "b": "6"},
        {"a": "7", "b": "8"},
    ]


def test_a_header_is_no_row_and_has_each_name_once() -> None:
    assert parsed(b"", "csv", 9) == parsed(b"a,b\n", "csv", 9) == parsed(b"\n\n", "csv", 9) == []
    for data, why in (
        (b"\na,b,a\n", "line 2: the column 'a' is there twice"),
        (b"\xff,b\n", "line 1: no UTF-8"),
    ):
        with pytest.raises(BadInputError, match=f"^f, {why}$"):
            parsed(data, "csv", 9)


def test_a_large_field_is_read_and_others_limits_are_kept() -> None:
    before = csv.field_size_limit()
    [row] = parsed(b'a\n"' + b"x\n" * 200_000 + b'"\n', "csv", 1 << 16)
    assert len(row["a"]) == 400_000
    assert csv.field_size_limit() == before


# ---- files ------------------------------------------------------------------------------------------------------


def test_files_are_read_one_after_the_other(here: Path) -> None:
    Path("b.txt").write_text("3\n4")
    Path("a.txt").write_text("1\n2")
    Path("[x].txt").write_text("5")
    Path("empty.txt").touch()
    Path("d.txt").mkdir()
    assert read(Files([here / "b.txt", "a.txt"])) == ["3", "4", "1", "2"]
    assert read(Files(["?.txt", "empty.txt", "[x].txt"]), 2) == ["1", "2", "3", "4", "5"]


def test_what_was_read_is_known(here: Path) -> None:
    Path("a").write_text("1\n" * 10)
    Path("b").write_text("1\n" * 10)
    inputs = Files(["a", "b"], bytes_max=4)
    assert (inputs.bytes_done, inputs.bytes_total, inputs.total) == (0, 40, None)
    progress = [(inputs.bytes_done, len(batch)) for _, batch in inputs.batches(10)]
    assert progress == [(done, 2) for done in range(4, 44, 4)]


def test_nothing_is_read_before_it_is_asked_for(here: Path) -> None:
    Path("a").write_text("1\n" * 10)
    inputs = Files(["a"], bytes_max=2)
    batches = inputs.batches()
    assert inputs.bytes_done == 0
    assert next(batches) == (0, ["1"])
    assert inputs.bytes_done == 2


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        (["none.txt"], "cannot read 'none.txt': No such file or directory"),
        (["none*.txt"], "no file matches 'none*.txt'"),
        (["."], "'.' is a directory: name what is in it, as './*'"),
        (["secret"], "cannot read 'secret': Permission denied"),
        (["-", "-"], "standard input ('-') can be read once only"),
    ],
)
def test_what_cannot_be_read_is_said_at_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, sources: list[str], complaint: str
) -> None:
    Path("secret").touch()
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != "secret" and access(path, mode)
    )  # for root too
    with pytest.raises(UnusableFile) as caught:
        Files(sources)
    assert str(caught.value) == complaint


def test_a_file_that_is_gone_or_fails_later_is_named(here: Path) -> None:
    Path("a").touch()
    inputs = Files(["a", "/proc/self/mem"])
    Path("a").unlink()
    with pytest.raises(UnusableFile, match=r"^cannot read 'a': No such file"):
        read(inputs)
    with pytest.raises(UnusableFile, match=r"^cannot read '/proc/self/mem': Input/output error"):
        read(Files(["/proc/self/mem"]))


def test_a_byte_order_mark_is_no_text(here: Path) -> None:
    for text in ("", "a", "a\nb"):
        Path("a").write_text(text, "utf-8-sig")
        assert read(Files(["a"], bytes_max=1)) == text.splitlines()
    Path("a").write_bytes(b"\xef\xbb")
    assert [bad.raw for bad in read(Files(["a"], bytes_max=1, on_bad="skip"))] == [b"\xef\xbb"]


def test_slow_input_comes_through_at_once() -> None:
    out, into = os.pipe()
    with os.fdopen(out, "rb"), os.fdopen(into, "wb", 0) as writer:
        inputs = Files([f"/dev/fd/{out}"])
        assert inputs.bytes_total is None
        batches = inputs.batches()
        for text, batch in ((b"a\nb", (0, ["a"])), (b"c\n", (1, ["bc"])), (b"d\ne\n", (2, ["d", "e"]))):
            writer.write(text)
            assert next(batches) == batch
        writer.write(b"f")
        writer.close()
        assert list(batches) == [(4, ["f"])]


def test_standard_input_is_read_from_its_descriptor(run_python: RunPython) -> None:
    program = "from zmqtasks.stream.inputs import Files; print(list(Files(['-']).batches()))"
    ended = run_python("-c", program, stdin="a\nb\n")
    assert (ended.stdout, ended.stderr) == ("[(0, ['a', 'b'])]\n", "")


# ---- compressed -------------------------------------------------------------------------------------------------


def compress(path: str, data: bytes) -> bytes:
    codec = codec_of(path)
    assert codec is not None
    return codec.compress(data)


@pytest.fixture(params=["a.gz", "a.zst"])
def path(request: pytest.FixtureRequest, here: Path) -> str:
    if request.param == "a.zst" and sys.version_info < (3, 14):
        pytest.importorskip("zstandard")
    return str(request.param)


@given(st.lists(st.binary(max_size=20), min_size=1), sizes)
def test_members_are_read_one_after_the_other(parts: list[bytes], block_bytes: int) -> None:
    data = b"".join(map(gzip.compress, parts)) + b"\0" * 7
    codec = codec_of("a.gz")
    assert codec is not None
    blocks = (data[at : at + block_bytes] for at in range(0, len(data), block_bytes))
    assert b"".join(inflated(blocks, codec)) == b"".join(parts)


def test_compressed_files_are_read(path: str) -> None:
    many = b"line\n" * 100_000
    Path(path).write_bytes(compress(path, b"a\nb") + compress(path, b"c\n" + many))
    inputs = Files([path])
    assert read(inputs, 1000) == ["a", "bc", *["line"] * 100_000]
    assert inputs.bytes_done == inputs.bytes_total == Path(path).stat().st_size
    assert max(len(batch) for _, batch in Files([path], bytes_max=100).batches()) <= 21


def test_a_compressed_file_that_is_cut_off_is_no_end(path: str) -> None:
    whole = compress(path, b"a\nb\n")
    for size in (len(whole) - 1, len(whole) // 2, 2):
        Path(path).write_bytes(whole[:size])
        with pytest.raises(BadInputError, match=rf"cannot read '{path}' to its end: it ends within"):
            read(Files([path]))
    Path(path).write_bytes(b"this is not compressed")
    with pytest.raises(BadInputError, match=rf"cannot read '{path}' to its end: "):
        read(Files([path]))


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="it has its own")
def test_zstandard_may_be_missing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    Path("a.zst").touch()
    with pytest.raises(
        UnusableFile, match=r"^'a.zst' needs the package zstandard: pip install 'zmqtasks\[zstd\]'$"
    ):
        Files(["a.zst"])


# ---- bad ones, and values ---------------------------------------------------------------------------------------


def test_a_bad_input_stops_after_those_before_it(here: Path) -> None:
    Path("a").write_bytes(b"1\n" * 16 + b"oops\n3\n")
    batches = Files(["a"], format="jsonl").batches(10)
    assert [next(batches), next(batches)] == [(0, [1] * 10), (10, [1] * 6)]
    with pytest.raises(BadInputError, match=r"^a, line 17: no JSON: "):
        next(batches)


def test_or_has_its_place_among_them(here: Path) -> None:
    Path("a").write_bytes(b"1\noops\n")
    Path("b").write_bytes(b"2\n\xff\n3\n")
    one, bad, two, worse, three = read(Files(["a", "b"], format="jsonl", on_bad="skip"))
    assert (one, two, three) == (1, 2, 3)
    assert [(bad.source, bad.line), (worse.source, worse.line)] == [("a", 2), ("b", 2)]


def test_values_are_inputs_as_they_are() -> None:
    values = Values(["a\n", "", "b", "c"])
    assert (values.total, values.bytes_total) == (4, None)
    assert read(values) == ["a\n", "", "b", "c"]
    assert read(Values(["1", '{"a": 2}'], format="jsonl")) == [1, {"a": 2}]
    with pytest.raises(BadInputError, match=r"^:::, line 2: no UTF-8: byte 0xff at 0$"):
        read(Values(["a", "\udcff"]))
    assert read(Values(["no"], format="jsonl", on_bad="skip"))[0].raw == b"no"


@pytest.fixture(autouse=True)
def _all_files_are_closed() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
