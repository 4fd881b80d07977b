"""Key files and the store: who may read them, what first use by many at once leaves, what is refused and how."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from conftest import python_environment

from zmqtasks import UnsafeConfiguration, UnusableKey
from zmqtasks.keys import ROLES, Key, KeyStore, is_on_this_machine, load, may, require_safe_bind

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import RunPython

Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be somebody without keys, whose home is the test's folder."""
    for name in ("ZMQTASKS_KEYS", "ZMQTASKS_KEY", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def store(home: Path) -> KeyStore:
    return KeyStore(home / "keys")


@pytest.fixture
def keypair() -> Callable[[], tuple[bytes, bytes]]:
    """Return what makes pairs that look like CURVE keys: each of one letter, another one each time."""
    letters = iter(Z85)
    return lambda: ((next(letters) * 40).encode(), (next(letters) * 40).encode())


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def read_key(path: Path) -> Key:
    return msgspec.json.decode(path.read_bytes(), type=Key)


def test_the_folder_is_found_by_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KeyStore().folder == home / ".config/zmqtasks/keys"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert KeyStore().folder == home / ".config/zmqtasks/keys", "as the specification says"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    assert KeyStore().folder == home / "xdg/zmqtasks/keys"
    monkeypatch.setenv("ZMQTASKS_KEYS", "~/mine")
    assert KeyStore().folder == home / "mine"
    assert KeyStore(home / "given").folder == home / "given"
    assert not list(home.iterdir()), "looking makes nothing"


def test_init_makes_a_pair_for_the_broker_and_a_key_for_each_side(store: KeyStore, keypair) -> None:
    assert not store.initialised
    assert store.init(keypair)
    assert store.initialised
    public, _ = store.server()
    client, worker = store.own("client"), store.own("worker")
    assert [(key.name, key.role, key.server) for key in (client, worker)] == [
        ("client", "client", public),
        ("worker", "worker", public),
    ]
    assert len(client.seal) == 64
    assert client.seal == worker.seal
    assert store.authorized() == {client.public: ("client", "client"), worker.public: ("worker", "worker")}
    assert len({public, client.public, worker.public, client.secret, worker.secret}) == 5


def test_init_again_changes_nothing(store: KeyStore, keypair) -> None:
    store.init(keypair)
    before = {path: path.read_bytes() for path in store.folder.iterdir()}
    stamp = store.stamp()
    assert not store.init(keypair)
    assert not store.ensure_local(keypair)
    assert {path: path.read_bytes() for path in store.folder.iterdir()} == before
    assert store.stamp() == stamp


def test_local_keys_are_kept_when_they_are_let_out(store: KeyStore, keypair) -> None:
    assert store.ensure_local(keypair)
    assert not store.initialised
    before = store.server(), store.own("client"), store.own("worker")
    assert not store.init(keypair), "no new keys"
    assert store.initialised
    assert (store.server(), store.own("client"), store.own("worker")) == before


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_can_read_anything_whatever_the_umask(home: Path, keypair, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = KeyStore(home / "a" / "b" / "keys")
        store.init(keypair)
        store.add("observer", "eye", keypair)
    finally:
        os.umask(before)
    folders = [home / "a", home / "a" / "b", store.folder]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    assert modes(store.folder) == dict.fromkeys(
        ["server.key", "authorized", "seal", "lock", "client.key", "worker.key", "eye.key"], 0o600
    )


def test_no_file_is_ever_open_to_others(store: KeyStore, keypair, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[bool, int]] = set()

    def watched() -> tuple[bytes, bytes]:
        seen.update((path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in all_paths())
        return keypair()

    def all_paths() -> list[Path]:
        return [store.folder, *store.folder.iterdir()]

    replace = Path.replace

    def replaced(self: Path, target: Path) -> Path:
        seen.update((path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in all_paths())
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(os, "chmod", lambda *_: pytest.fail("made first, closed later"))
    monkeypatch.setattr(os, "fchmod", lambda *_: pytest.fail("made first, closed later"))
    store.init(watched)
    assert seen == {(True, 0o700), (False, 0o600)}


def test_more_keys_are_added_by_role_and_name(store: KeyStore, keypair) -> None:
    store.init(keypair)
    stamp = store.stamp()
    path = store.add("worker", "lab7", keypair)
    assert path == store.folder / "lab7.key"
    key = read_key(path)
    assert (key.name, key.role, key.server) == ("lab7", "worker", store.server()[0])
    assert key.seal == store.own("client").seal
    assert store.stamp() != stamp
    observer = read_key(store.add("observer", "eye", keypair))
    assert observer.seal == "", "it signs nothing"
    assert [(entry.name, entry.role) for entry in store.entries()] == [
        ("client", "client"),
        ("worker", "worker"),
        ("lab7", "worker"),
        ("eye", "observer"),
    ]
    assert store.authorized()[key.public] == ("lab7", "worker")


@pytest.mark.parametrize(
    ("role", "name", "complaint"),
    [
        ("king", "x", "there is no role 'king', only client, worker, observer"),
        ("worker", "", "'' is no name for a key"),
        ("worker", "../x", "'../x' is no name for a key"),
        ("worker", ".x", "'.x' is no name for a key"),
        ("worker", "a:b", "'a:b' is no name for a key"),
        ("worker", "x\n", "is no name for a key"),
        ("worker", "x" * 65, "is no name for a key"),
        ("worker", "\u0664", "is no name for a key"),
        ("worker", "worker", "there is a key 'worker': revoke it first"),
        ("worker", "LAB", "there is a key 'LAB': revoke it first"),
        ("worker", "server", "'server' is not the name of a key for the role worker"),
        ("worker", "Client", "'Client' is not the name of a key for the role worker"),
    ],
)
def test_what_cannot_be_added(store: KeyStore, keypair, role: str, name: str, complaint: str) -> None:
    store.init(keypair)
    store.add("worker", "lab", keypair)
    before = store.entries(), sorted(store.folder.iterdir())
    with pytest.raises(ValueError) as caught:
        store.add(role, name, keypair)
    assert complaint in str(caught.value)
    assert (store.entries(), sorted(store.folder.iterdir())) == before


def test_a_store_that_is_not_there_says_how_to_make_it(store: KeyStore, keypair) -> None:
    assert store.entries() == []
    assert store.authorized() == {}
    assert store.stamp() == (0, 0, 0)
    for change in (lambda: store.add("worker", "x", keypair), lambda: store.revoke("x")):
        with pytest.raises(UnusableKey, match=r"^no keys in .*: run zmqtasks keys init$"):
            change()
    with pytest.raises(UnusableKey, match=r"^cannot read .*server\.key: No such file or directory$"):
        store.server()


def test_a_revoked_key_is_out_and_its_name_is_free_for_another(store: KeyStore, keypair) -> None:
    store.init(keypair)
    old = read_key(store.add("worker", "lab", keypair))
    stamp = store.stamp()
    assert store.revoke("lab")
    assert store.stamp() != stamp
    assert old.public not in store.authorized()
    assert not store.path("lab").exists()
    assert not store.revoke("lab")
    new = read_key(store.add("worker", "lab", keypair))
    assert new.public != old.public
    assert old.public not in store.authorized()


def test_a_revoked_key_of_the_store_itself_does_not_come_back_by_itself(store: KeyStore, keypair) -> None:
    store.init(keypair)
    assert store.revoke("client")
    assert not store.init(keypair)
    assert not store.ensure_local(keypair)
    with pytest.raises(UnusableKey, match=r"^no client's key in .*: run zmqtasks keys add client client$"):
        store.own("client")
    store.add("client", "client", keypair)
    assert store.own("client").role == "client"


def test_what_was_cut_short_is_made_good_and_admits_nobody(store: KeyStore, keypair) -> None:
    made = iter(range(3))

    def breaks() -> tuple[bytes, bytes]:
        if next(made) == 2:
            raise KeyboardInterrupt
        return keypair()

    with pytest.raises(KeyboardInterrupt):
        store.init(breaks)  # the broker's and the client's are there
    server, halfway = store.server(), store.own("client")
    assert not store.initialised
    assert store.authorized() == {}
    assert store.init(keypair)
    assert store.server() == server
    assert halfway.public not in store.authorized()
    assert set(store.authorized()) == {store.own("client").public, store.own("worker").public}


def test_a_full_disk_leaves_no_half_file(store: KeyStore, keypair, monkeypatch: pytest.MonkeyPatch) -> None:
    store.init(keypair)
    before = sorted(store.folder.iterdir()), store.entries()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnusableKey, match="No space"):
        store.add("worker", "lab", keypair)
    assert (sorted(store.folder.iterdir()), store.entries()) == before


FIRST_USE = """
import sys
from pathlib import Path
from zmqtasks.keys import KeyStore
from zmqtasks.nodes.zap import keypair
store = KeyStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
made = store.ensure_local(keypair)
print(made, store.server()[0], store.own("client").public, store.own("worker").public, store.own("worker").seal)
"""


def test_eight_processes_at_once_make_one_set_of_keys(home: Path) -> None:
    folder = home / "deep" / "keys"
    command = [sys.executable, "-c", FIRST_USE, str(folder)]
    started = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=python_environment()
        )
        for _ in range(8)
    ]
    try:
        for process in started:
            assert process.stdout.readline() == "ready\n"
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
        ends = [process.communicate(timeout=30)[0].split() for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert [process.returncode for process in started] == [0] * 8
    assert sorted(end[0] for end in ends) == ["False"] * 7 + ["True"]
    assert len({tuple(end[1:]) for end in ends}) == 1
    assert set(KeyStore(folder).authorized()) == set(ends[0][2:4])
    assert sorted(modes(folder)) == ["authorized", "client.key", "lock", "seal", "server.key", "worker.key"]


def test_keys_added_at_once_are_all_there(store: KeyStore) -> None:
    store.init(lambda: (b"a" * 40, b"b" * 40))

    def add(letter: str) -> None:
        store.add("worker", letter, lambda: (letter.encode() * 40, letter.encode() * 40))
        assert store.revoke(letter)
        store.add("worker", letter, lambda: (letter.encode() * 40, letter.encode() * 40))

    threads = [threading.Thread(target=add, args=(letter,)) for letter in "cdefghij"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {entry.name for entry in store.entries()} == {"client", "worker", *"cdefghij"}


def test_a_key_shows_nothing_secret(store: KeyStore, keypair) -> None:
    store.init(keypair)
    key = store.own("client")
    for text in (repr(key), str(key), f"{key}", repr(key.__rich_repr__())):
        assert key.secret not in text
        assert key.seal not in text
    assert repr(key) == "Key('client', 'client')"


def test_load_takes_the_first_that_is_named(home: Path, keypair, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = [KeyStore(home / name) for name in ("explicit", "variable", "own")]
    for store in stores:
        store.init(keypair)
    explicit, variable, own = stores
    monkeypatch.setenv("ZMQTASKS_KEYS", str(own.folder))
    assert load(None, "worker", keypair) == own.own("worker")
    monkeypatch.setenv("ZMQTASKS_KEY", "~/variable/worker.key")
    assert load(None, "worker", keypair) == variable.own("worker")
    assert load(str(explicit.path("worker")), "worker", keypair) == explicit.own("worker")


def test_load_makes_local_keys_at_first_use(home: Path, keypair) -> None:
    key = load(None, "client", keypair)
    store = KeyStore()
    assert store.folder == home / ".config/zmqtasks/keys"
    assert key == store.own("client")
    assert not store.initialised
    assert load(None, "worker", keypair, address="tcp://127.0.0.1:5555") == store.own("worker")
    assert load(None, "observer", keypair) == key, "a client may read"


def test_load_makes_no_keys_that_a_broker_elsewhere_cannot_know(home: Path, keypair) -> None:
    address = "tcp://far.example:5555"
    for _ in range(2):
        with pytest.raises(UnusableKey) as caught:
            load(None, "worker", keypair, address=address)
        assert str(caught.value) == (
            f"no key for {address}: copy worker.key from the broker's machine, name it by --key or ZMQTASKS_KEY"
        )
        assert not KeyStore().initialised
    KeyStore().init(keypair)  # this is the broker's machine, under its public name
    assert load(None, "worker", keypair, address=address).role == "worker"


@pytest.mark.parametrize(
    ("given", "wanted", "fits"),
    [
        ("client", "client", True),
        ("observer", "client", True),
        ("worker", "client", False),
        ("worker", "worker", True),
        ("client", "worker", False),
        ("observer", "worker", False),
        ("observer", "observer", True),
        ("client", "observer", True),
        ("worker", "observer", False),
    ],
)
def test_load_looks_at_the_role(store: KeyStore, keypair, given: str, wanted: str, fits: bool) -> None:
    store.init(keypair)
    path = store.add(given, "it", keypair)
    if fits:
        assert load(str(path), wanted, keypair).role == given
    else:
        with pytest.raises(UnusableKey, match=f"it.key is a key for the role {given}, not {wanted}$"):
            load(str(path), wanted, keypair)


GOOD = {"name": "x", "role": "worker", "public": "a" * 40, "secret": "b" * 40, "server": "c" * 40}
BAD_KEYS = {
    "empty": b"",
    "torn": b'{"name": "x", "ro',
    "not utf-8": b"\xff\xfe",
    "no object": b"[]",
    "a field is missing": msgspec.json.encode({k: v for k, v in GOOD.items() if k != "secret"}),
    "an unknown role": msgspec.json.encode({**GOOD, "role": "king"}),
    "a short key": msgspec.json.encode({**GOOD, "public": "a" * 39}),
    "a key with a line end": msgspec.json.encode({**GOOD, "public": "a" * 40 + "\n"}),
    "no z85": msgspec.json.encode({**GOOD, "secret": '"' * 40}),
    "a path as a name": msgspec.json.encode({**GOOD, "name": "../x"}),
    "a short seal": msgspec.json.encode({**GOOD, "seal": "00"}),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("text", BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_damaged_key_is_one_clear_line(home: Path, keypair, text: bytes) -> None:
    path = home / "bad.key"
    path.touch(0o600)
    path.write_bytes(text)
    with pytest.raises(UnusableKey) as caught:
        load(str(path), "worker", keypair)
    assert str(caught.value).startswith(f"{path} is damaged, or no key file of zmqtasks: ")
    assert "\n" not in str(caught.value)
    assert "b" * 40 not in str(caught.value)
    assert caught.value.__cause__ is None
    path.write_bytes(msgspec.json.encode(GOOD))
    assert load(str(path), "worker", keypair).name == "x", "it was the text"


def test_what_is_no_file_is_no_key(home: Path, keypair) -> None:
    with pytest.raises(UnusableKey, match=r"^cannot read .*/none\.key: No such file or directory$"):
        load(str(home / "none.key"), "worker", keypair)
    with pytest.raises(UnusableKey, match=r"is no key file$"):
        load(str(home), "worker", keypair)
    os.mkfifo(home / "pipe.key", 0o600)  # and nobody writes: it must not wait
    with pytest.raises(UnusableKey, match=r"is no key file$"):
        load(str(home / "pipe.key"), "worker", keypair)
    with pytest.raises(UnusableKey, match=r"is no key file$"):
        load("/dev/zero", "worker", keypair)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o620, 0o666, 0o610])
def test_a_key_that_others_may_open_is_refused(store: KeyStore, keypair, mode: int) -> None:
    store.init(keypair)
    path = store.path("worker")
    path.chmod(mode)
    with pytest.raises(UnsafeConfiguration) as caught:
        load(str(path), "worker", keypair)
    assert str(caught.value) == f"others may open {path} (mode {mode:04o}): run chmod 600 {path}"
    path.chmod(0o400)
    assert load(str(path), "worker", keypair).role == "worker"


def test_a_store_that_others_may_change_is_refused(store: KeyStore, keypair) -> None:
    store.init(keypair)
    for name, read in (("authorized", store.authorized), ("server.key", store.server)):
        (store.folder / name).chmod(0o640)
        with pytest.raises(UnsafeConfiguration, match=f"^others may open .*{name} "):
            read()
        (store.folder / name).chmod(0o600)
    store.folder.chmod(0o777)
    for use in (store.authorized, lambda: store.ensure_local(keypair), lambda: store.revoke("client")):
        with pytest.raises(UnsafeConfiguration, match=r"^others may change .* \(mode 0777\): run chmod 700 "):
            use()
    store.folder.chmod(0o755)  # names are no secret
    assert store.authorized()


def test_a_folder_that_cannot_be_made_is_one_clear_line(
    home: Path, keypair, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    monkeypatch.setenv("ZMQTASKS_KEYS", str(home / "file" / "keys"))
    with pytest.raises(UnusableKey, match=r"^cannot keep keys in .*/file/keys: .* \(see ZMQTASKS_KEYS\)$"):
        load(None, "client", keypair)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("tcp://127.0.0.1:5555", True),
        ("tcp://127.8.9.10:*", True),
        ("tcp://localhost:5555", True),
        ("tcp://[::1]:5555", True),
        ("ipc:///run/x", True),
        ("ipc://@abstract", True),
        ("inproc://x", True),
        ("tcp://0.0.0.0:5555", False),
        ("tcp://*:5555", False),
        ("tcp://[::]:5555", False),
        ("tcp://10.0.0.1:5555", False),
        ("tcp://127.evil.example:5555", False),
        ("tcp://localhost.evil.example:5555", False),
        ("tcp://127.0.0.1:0;10.0.0.1:5555", False),
        ("tcp://eth0:5555", False),
        ("tcp://:5555", False),
        ("tcp://", False),
        ("udp://127.0.0.1:5555", False),
        ("127.0.0.1:5555", False),
        ("", False),
    ],
)
def test_which_addresses_only_this_machine_can_reach(
    store: KeyStore, keypair, address: str, local: bool
) -> None:
    assert is_on_this_machine(address) is local
    for prepare in (lambda: None, lambda: store.ensure_local(keypair)):
        prepare()
        if local:
            require_safe_bind(address, store)
        else:
            with pytest.raises(UnsafeConfiguration, match=r"run zmqtasks keys init$"):
                require_safe_bind(address, store)
    store.init(keypair)
    require_safe_bind(address, store)


VERBS = {
    "client": {"submit", "cancel", "result", "inspect"},
    "worker": {"join", "done", "submit", "cancel"},
    "observer": {"inspect", "result"},
}


@pytest.mark.parametrize("verb", [*sorted(set().union(*VERBS.values())), "", "shutdown"])
@pytest.mark.parametrize("role", [*ROLES, "", "king"])
def test_which_role_may_say_which_verb(role: str, verb: str) -> None:
    assert may(role, verb) is (verb in VERBS.get(role, ()))


def test_keys_load_no_zmq(run_python: RunPython) -> None:
    ended = run_python("-c", "import zmqtasks.keys, sys; print('zmq' in sys.modules)")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "False\n", "")
