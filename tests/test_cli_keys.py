"""`zmqtasks keys`: what it makes, what it prints for people and for programs, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zmqtasks.cli import main
from zmqtasks.keys import KeyStore, load
from zmqtasks.nodes.zap import keypair

if TYPE_CHECKING:
    from conftest import RunPython

    Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyStore:
    """Keep keys in the test's folder, and nowhere else."""
    monkeypatch.delenv("ZMQTASKS_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ZMQTASKS_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("COLUMNS", "100")
    return KeyStore()


def listed(capsys: Captured) -> dict[str, object]:
    capsys.readouterr()
    assert main(["keys", "list", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_init_makes_keys_and_says_what_goes_where(store: KeyStore, capsys: Captured) -> None:
    assert main(["keys", "init"]) == 0
    written = capsys.readouterr()
    assert written.err == ""
    assert written.out == (
        f"Made keys in {store.folder}.\n"
        "Start the broker here:\n"
        "    zmqtasks broker --bind tcp://0.0.0.0:5555\n"
        f"Copy {store.folder}/client.key, and in a program elsewhere:\n"
        '    Client("tcp://HOST:5555", key="client.key")\n'
        f"Copy {store.folder}/worker.key, and on a machine that works:\n"
        "    zmqtasks worker tcp://HOST:5555 --key worker.key\n"
        "    zmqtasks worker --ventilator tcp://HOST:5557 --key worker.key    for a pipeline, without a broker\n"
    )
    assert store.initialised
    for role in ("client", "worker"):
        assert load(str(store.path(role)), role, keypair).server == store.server()[0]
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.folder.iterdir()} == {0o600}


def out_of_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("os.fsync", "No space left on device"),
        ("os.open", "No space left on device"),
        ("", "Not a directory"),
    ],
)
@pytest.mark.parametrize("command", [["keys", "init"], ["broker", "--bind", "tcp://127.0.0.1:*"]], ids=str)
def test_where_no_keys_can_be_kept_that_is_said_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    command: list[str],
    call: str,
    reason: str,
) -> None:
    monkeypatch.setenv("ZMQTASKS_DEBUG", "0")
    folder = tmp_path / "keys"
    if call:
        monkeypatch.setattr(call, out_of_space)
    else:
        (tmp_path / "file").touch()
        folder = tmp_path / "file" / "keys"
        monkeypatch.setenv("ZMQTASKS_KEYS", str(folder))
    assert main(command) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err == f"zmqtasks: cannot keep keys in {folder}: {reason} (see ZMQTASKS_KEYS)\n"
    assert not list(tmp_path.glob("keys/*.key")), "nothing half made"


def test_init_twice_changes_nothing_and_says_so(store: KeyStore, capsys: Captured) -> None:
    main(["keys", "init"])
    before = store.server(), store.entries()
    capsys.readouterr()
    assert main(["keys", "init"]) == 0
    assert capsys.readouterr().out.startswith(f"There are keys in {store.folder}, and they stay.\n")
    assert (store.server(), store.entries()) == before


def test_local_keys_are_listed_as_such_until_init(store: KeyStore, capsys: Captured) -> None:
    store.ensure_local(keypair)
    assert main(["keys", "list"]) == 0
    assert capsys.readouterr().err == "For this machine only (zmqtasks keys init lets others in).\n"
    assert listed(capsys)["initialised"] is False
    assert main(["keys", "init"]) == 0
    assert listed(capsys)["initialised"] is True


@pytest.mark.parametrize(
    ("role", "hint"),
    [
        ("client", 'Client("tcp://HOST:5555", key="lab7.key")'),
        ("worker", "zmqtasks worker tcp://HOST:5555 --key lab7.key"),
        ("observer", "zmqtasks status --key lab7.key"),
    ],
)
def test_a_key_is_added_listed_and_revoked(store: KeyStore, capsys: Captured, role: str, hint: str) -> None:
    main(["keys", "init"])
    capsys.readouterr()
    assert main(["keys", "add", role, "lab7"]) == 0
    written = capsys.readouterr().out
    assert f"Made {store.folder}/lab7.key." in written
    assert hint in written
    key = load(str(store.path("lab7")), role, keypair)
    assert {"name": "lab7", "role": role, "public": key.public} in listed(capsys)["keys"]
    assert main(["keys", "list"]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in table] == [
        ["NAME", "ROLE"],
        ["client", "client"],
        ["worker", "worker"],
        ["lab7", role],
    ]
    assert table[3][2] == key.public
    assert main(["keys", "revoke", "lab7"]) == 0
    assert capsys.readouterr().out == "Revoked lab7.\n"
    assert [entry["name"] for entry in listed(capsys)["keys"]] == ["client", "worker"]
    assert not store.path("lab7").exists()


def test_nothing_secret_is_printed(store: KeyStore, capsys: Captured) -> None:
    for arguments in (["init"], ["add", "worker", "lab"], ["list"], ["list", "--json"], ["revoke", "lab"]):
        assert main(["keys", *arguments]) == 0
    written = capsys.readouterr()
    key = store.own("worker")
    for secret in (key.secret, key.seal, store.own("client").secret, store.server()[1]):
        assert secret not in written.out + written.err


def test_without_keys_there_is_a_hint(store: KeyStore, capsys: Captured) -> None:
    assert main(["keys", "list"]) == 0
    assert capsys.readouterr() == ("", f"no keys in {store.folder} (zmqtasks keys init makes them)\n")
    assert listed(capsys) == {"folder": str(store.folder), "initialised": False, "keys": []}
    assert not store.folder.exists(), "looking makes nothing"


@pytest.mark.parametrize("initialised", [False, True])
def test_revoking_what_is_not_there_ends_with_6(store: KeyStore, capsys: Captured, initialised: bool) -> None:
    if initialised:
        store.init(keypair)
    assert main(["keys", "revoke", "nobody"]) == 6
    written = capsys.readouterr()
    assert (written.out, written.err) == (
        "",
        "zmqtasks: there is no key 'nobody' (see zmqtasks keys list)\n",
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "Missing command"),
        ("forget", "No such command 'forget'"),
        ("add", "Missing argument"),
        ("add worker", "Missing argument"),
        ("add king x", "'king' is not one of 'client', 'worker', 'observer'"),
        ("add worker ../x", "'../x' is no name for a key"),
        ("add worker worker", "there is a key 'worker': revoke it first"),
        ("add worker server", "'server' is not the name of a key for the role worker"),
        ("revoke", "Missing argument"),
    ],
)
def test_a_wrong_command_is_one_line(
    store: KeyStore, capsys: Captured, arguments: str, complaint: str
) -> None:
    store.init(keypair)
    assert main(["keys", *shlex.split(arguments)]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("zmqtasks: ")
    assert complaint in written.err
    assert written.err.count("\n") == 1


def test_to_add_before_init_is_an_error(capsys: Captured) -> None:
    assert main(["keys", "add", "worker", "lab"]) != 0
    assert capsys.readouterr().err.endswith("run zmqtasks keys init\n")
    assert main(["keys", "add", "worker", "lab", "--debug"]) == 2
    assert "zmqtasks.errors.UnusableKey: " in capsys.readouterr().err


def test_a_store_that_others_may_change_is_an_error(store: KeyStore, capsys: Captured) -> None:
    store.init(keypair)
    store.folder.chmod(0o777)
    assert main(["keys", "list"]) != 0
    written = capsys.readouterr().err
    assert f"others may change {store.folder} (mode 0777): run chmod 700 {store.folder}" in written
    assert written.count("\n") == 1
    assert main(["keys", "list", "--debug"]) == 78
    assert "zmqtasks.errors.UnsafeConfiguration: " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "init", "add", "list", "revoke"])
def test_help_teaches_by_example(capsys: Captured, command: str) -> None:
    assert main(["keys", *command.split(), "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"zmqtasks keys {command or 'init'}" in shown
    if not command:
        assert "zmqtasks broker --bind tcp://0.0.0.0:5555" in shown
        assert "zmqtasks worker tcp://HOST:5555 --key worker.key" in shown


def test_the_program_itself(store: KeyStore, run_python: RunPython) -> None:
    ended = run_python("-m", "zmqtasks", "keys", "init")
    assert (ended.returncode, ended.stderr) == (0, "")
    ended = run_python("-m", "zmqtasks", "keys", "list", "--json")
    assert [entry["name"] for entry in json.loads(ended.stdout)["keys"]] == ["client", "worker"]


def test_looking_loads_no_zmq(run_python: RunPython) -> None:
    ended = run_python(
        "-c",
        "import sys; from zmqtasks.cli import main; main(['keys', 'list']); print('zmq' in sys.modules)",
    )
    assert ended.stdout.splitlines()[-1] == "False", ended.stderr
