"""Who may connect, and as what: key files, the store they are made in, and which role may say which verb.

A key file is one peer's whole identity: its CURVE key pair, the broker's public key, and for those who make or run
tasks the `seal`, with which payloads are signed. A store is the folder on the broker's machine where keys are made:

    server.key      the broker's own key pair
    authorized      the public keys that the broker admits, with their names and roles; changed by replacing it
    seal            what `add` puts into new keys; no broker reads it
    NAME.key        the key files, to be copied to where they are used

A key is admitted while `authorized` lists it, and for nothing else. So a new key's file is written first and listed
last, and a revoked one is unlisted before its file goes: whatever is cut short admits nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shlex
import stat
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from zmqtasks.errors import UnsafeConfiguration, UnusableKey

__all__ = [
    "ROLES",
    "Entry",
    "Key",
    "KeyStore",
    "is_on_this_machine",
    "load",
    "may",
    "require_safe_bind",
]

ROLES = ("client", "worker", "observer")

FILE_BYTES_MAX = 10_000_000  # `authorized` has about 150 bytes a key
SEAL_BYTES = 32

_VERBS = {
    "client": frozenset({"submit", "cancel", "result", "inspect"}),
    "worker": frozenset({"join", "done", "submit", "cancel"}),  # tasks submit too
    "observer": frozenset({"inspect", "result"}),
}

# Whose key serves whom, its own role first: an observer's is a client that only reads, a client reads too.
_SERVES = {"client": ("client", "observer"), "worker": ("worker",), "observer": ("observer", "client")}

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"

_Z85 = r"^[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}\Z"
_Name = Annotated[str, msgspec.Meta(pattern=_NAME)]
_CurveKey = Annotated[str, msgspec.Meta(pattern=_Z85)]
_Seal = Annotated[str, msgspec.Meta(pattern=rf"^([0-9a-f]{{{2 * SEAL_BYTES}}})?\Z")]
_Role = Annotated[str, msgspec.Meta(pattern=rf"^({'|'.join(ROLES)})\Z")]

Keypair = Callable[[], tuple[bytes, bytes]]
"""Makes a CURVE key pair, public and secret, both z85: `zmq.curve_keypair`, which this floor does not import."""

T = TypeVar("T")


class Key(msgspec.Struct, frozen=True):
    """One peer's identity, as in its key file; keys are z85 text, `server` is the broker's public one.

    `seal` is the secret that clients and workers sign payloads with, 32 bytes in hex; "" for observers.
    """

    name: _Name
    role: _Role
    public: _CurveKey
    secret: _CurveKey
    server: _CurveKey
    seal: _Seal = ""

    def __repr__(self) -> str:  # nothing secret in logs
        return f"Key({self.name!r}, {self.role!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # nor in the tracebacks of rich
        return [("name", self.name), ("role", self.role)]


class Entry(msgspec.Struct, frozen=True):
    """A key that the broker admits."""

    name: _Name
    role: _Role
    public: _CurveKey


class _Server(msgspec.Struct, frozen=True):
    public: _CurveKey
    secret: _CurveKey


class _SealFile(msgspec.Struct, frozen=True):
    seal: _Seal


class _Authorized(msgspec.Struct, frozen=True):
    """`initialised`: someone asked for these keys; otherwise they made themselves, for loopback only."""

    initialised: bool
    keys: list[Entry]


class KeyStore:
    """The keys in `folder`: `$ZMQTASKS_KEYS`, else `zmqtasks/keys` in `$XDG_CONFIG_HOME`, else in `~/.config`.

    Any process may change it at any time; each change is one atomic replace, under a lock that dies with its owner.
    What is read is read anew: `UnusableKey` if it is missing or damaged, `UnsafeConfiguration` if others may read it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = _default_folder() if folder is None else folder

    @property
    def initialised(self) -> bool:
        """Whether `init` was called: these keys may serve other machines."""
        found = self._found()
        return found is not None and found.initialised

    def init(self, keypair: Keypair) -> bool:
        """Make the broker's key, a key "client" and a key "worker", to serve other machines; False: they were there.

        Keys that made themselves (`ensure_local`) are kept, and do so from now on.
        """
        return self._ensure(keypair, initialised=True)

    def ensure_local(self, keypair: Keypair) -> bool:
        """Make the same keys if there are none, for loopback only; False: there are keys. Any process may, at once."""
        return self._found() is None and self._ensure(keypair, initialised=False)

    def add(self, role: str, name: str, keypair: Keypair) -> Path:
        """Make and admit a key; the path of its file. `ValueError`: no such role, not a name, or taken."""
        if role not in ROLES:
            raise ValueError(f"there is no role {role!r}, only {', '.join(ROLES)}")
        if not re.match(_NAME, name):
            raise ValueError(f"{name!r} is no name for a key: letters, digits, '.', '_', '-', at most 64")
        if name.lower() in {"server", *ROLES} - {role}:  # the store's own: `own` goes by them
            raise ValueError(f"{name!r} is not the name of a key for the role {role}")
        with self._locked():
            found = self._listed()
            if name.lower() in {entry.name.lower() for entry in found.keys}:  # some file systems see no case
                raise ValueError(f"there is a key {name!r}: revoke it first")
            entry = self._make(role, name, keypair)
            self._write("authorized", _Authorized(found.initialised, [*found.keys, entry]))
        return self.path(name)

    def revoke(self, name: str) -> bool:
        """Admit the key of this name no longer, and delete its file here; False: there is none."""
        with self._locked():
            found = self._listed()
            kept = [entry for entry in found.keys if entry.name != name]
            if len(kept) == len(found.keys):
                return False
            self._write("authorized", _Authorized(found.initialised, kept))
            self.path(name).unlink(missing_ok=True)
        return True

    def entries(self) -> list[Entry]:
        """The keys that are admitted, oldest first; none where there is no store yet."""
        found = self._found()
        return found.keys if found else []

    def authorized(self) -> dict[str, tuple[str, str]]:
        """Name and role of each public key that is admitted."""
        return {entry.public: (entry.name, entry.role) for entry in self.entries()}

    def stamp(self) -> tuple[int, int, int]:
        """What differs once `authorized` has changed on disk; one system call. Take it before you read."""
        try:
            status = (self.folder / "authorized").stat()
        except FileNotFoundError:
            return (0, 0, 0)
        return (status.st_ino, status.st_ctime_ns, status.st_size)

    def server(self) -> tuple[str, str]:
        """The broker's key pair, public and secret."""
        pair = _read(self.folder / "server.key", _Server)
        return pair.public, pair.secret

    def path(self, name: str) -> Path:
        """Where the key file of this name is, or would be."""
        return self.folder / f"{name}.key"

    def own(self, role: str) -> Key:
        """The key that this store has for a peer of this role on its own machine."""
        for name in _SERVES[role]:
            if self.path(name).exists():
                return _read(self.path(name), Key)
        raise UnusableKey(f"no {role}'s key in {self.folder}: run zmqtasks keys add {role} {role}")

    def _ensure(self, keypair: Keypair, *, initialised: bool) -> bool:
        with self._locked():
            found = self._found()  # others may have been here before the lock was ours
            if found is None:
                self._make_server(keypair)
                keys = [self._make(name, name, keypair) for name in ("client", "worker")]
            elif initialised and not found.initialised:
                keys = found.keys
            else:
                return False
            self._write("authorized", _Authorized(initialised, keys))
        return found is None

    def _make_server(self, keypair: Keypair) -> None:
        """Make what all keys hold, except what is there: copies may be out in the world."""
        if not (self.folder / "server.key").exists():
            public, secret = keypair()
            self._write("server.key", _Server(public.decode(), secret.decode()))
        if not (self.folder / "seal").exists():
            self._write("seal", _SealFile(secrets.token_hex(SEAL_BYTES)))

    def _make(self, role: str, name: str, keypair: Keypair) -> Entry:
        """Write a key file, and return what admits it."""
        public, secret = (part.decode() for part in keypair())
        seal = "" if role == "observer" else _read(self.folder / "seal", _SealFile).seal
        self._write(f"{name}.key", Key(name, role, public, secret, self.server()[0], seal))
        return Entry(name, role, public)

    def _found(self) -> _Authorized | None:
        """What is admitted, or None where there is no store."""
        path = self.folder / "authorized"
        try:
            mode = stat.S_IMODE(self.folder.stat().st_mode)
            if mode & 0o022:
                raise UnsafeConfiguration(
                    f"others may change {self.folder} (mode {mode:04o}): run chmod 700 {shlex.quote(str(self.folder))}"
                )
            return _decode(path, _open_and_read(path), _Authorized)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> UnusableKey:
        """Why nothing can be kept here: a full disk, a folder of another user's."""
        return UnusableKey(f"cannot keep keys in {self.folder}: {error.strerror} (see ZMQTASKS_KEYS)")

    def _listed(self) -> _Authorized:
        if (found := self._found()) is None:
            raise UnusableKey(f"no keys in {self.folder}: run zmqtasks keys init")
        return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes and threads from changing the store; what cannot be changed is an `UnusableKey`."""
        try:
            _make_folder(self.folder)
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise self._unusable(error) from error

    def _write(self, name: str, content: object) -> None:
        """Replace a file of the store; readers see the old one or the new one, and only we may read either."""
        text = msgspec.json.format(msgspec.json.encode(content)) + b"\n"
        file, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=self.folder)  # mode 0600 as it is created
        try:
            with open(file, "wb") as out:  # noqa: PTH123 - a descriptor
                out.write(text)
                out.flush()
                os.fsync(file)
            Path(temporary).replace(self.folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def load(path: str | None, role: str, keypair: Keypair, *, address: str | None = None) -> Key:
    """The key of a peer of this role that connects to `address` (None: loopback).

    It is the file at `path`, else at `$ZMQTASKS_KEY`, else the store's own, made now if there is no store and the
    broker is on this machine. `UnusableKey` and `UnsafeConfiguration` say in one line what is wrong with it.
    """
    named = path or os.environ.get("ZMQTASKS_KEY")
    if named:
        file = Path(named).expanduser()
        key = _read(file, Key)
        if key.role not in _SERVES[role]:
            raise UnusableKey(f"{file} is a key for the role {key.role}, not {role}")
        return key
    store = KeyStore()
    if address is None or is_on_this_machine(address):
        store.ensure_local(keypair)
    elif not store.initialised:  # keys that made themselves here are known to no other machine
        raise UnusableKey(
            f"no key for {address}: copy {role}.key from the broker's machine, name it by --key or ZMQTASKS_KEY"
        )
    return store.own(role)


def may(role: str, verb: str) -> bool:
    """Whether a peer of this role may say this verb."""
    return verb in _VERBS.get(role, ())


def is_on_this_machine(address: str) -> bool:
    """Whether only this machine can reach `address`: ipc, inproc, tcp on loopback. In doubt it is not."""
    transport, _, rest = address.partition("://")
    if transport in ("ipc", "inproc"):
        return True
    host = rest.rpartition(":")[0]
    if transport != "tcp" or not host:
        return False
    if host == "localhost":
        return True
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:  # a name, an interface, '*'
        return False


def is_ipv6(address: str) -> bool:
    """Whether it names a host by its IPv6 address, as tcp://[::1]:5555 does: others are looked for with IPv4."""
    return address.startswith("tcp://[")


def require_safe_bind(address: str, store: KeyStore) -> None:
    """Raise `UnsafeConfiguration` if others can reach `address` and the keys in `store` made themselves."""
    if not is_on_this_machine(address) and not store.initialised:
        raise UnsafeConfiguration(
            f"other machines can reach {address}, and no keys were made for them: run zmqtasks keys init"
        )


def _default_folder() -> Path:
    if named := os.environ.get("ZMQTASKS_KEYS"):
        return Path(named).expanduser()
    config = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not config.is_absolute():  # the specification says: then it is not set
        try:
            config = Path("~/.config").expanduser()
        except RuntimeError:
            raise UnusableKey("this user has no home to keep keys in: set ZMQTASKS_KEYS") from None
    return config / "zmqtasks" / "keys"


def _make_folder(folder: Path) -> None:
    """Make it and what is missing above it, each for us alone."""
    for path in (*reversed(folder.parents), folder):
        if not path.exists():
            with contextlib.suppress(FileExistsError):  # another process was faster
                path.mkdir(mode=0o700)


def _read(path: Path, kind: type[T]) -> T:
    """What is in a file that only we may read."""
    try:
        text = _open_and_read(path)
    except OSError as error:
        raise UnusableKey(f"cannot read {path}: {error.strerror}") from error
    return _decode(path, text, kind)


def _open_and_read(path: Path) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a named pipe must not hold us
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableKey(f"{path} is no key file")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise UnsafeConfiguration(
                f"others may open {path} (mode {mode:04o}): run chmod 600 {shlex.quote(str(path))}"
            )
        return os.read(file, FILE_BYTES_MAX)
    finally:
        os.close(file)


def _decode(path: Path, text: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnusableKey(f"{path} is damaged, or no key file of zmqtasks: {error}") from None
