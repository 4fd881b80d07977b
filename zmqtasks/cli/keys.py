"""`zmqtasks keys`: who may connect to the broker of this machine."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from zmqtasks.cli.exits import CommandError, Exit
from zmqtasks.cli.options import AsJson, Debug
from zmqtasks.cli.output import Column, records
from zmqtasks.errors import UnusableKey
from zmqtasks.keys import ROLES, KeyStore

_KEYS = (Column("NAME", "name"), Column("ROLE", "role"), Column("PUBLIC KEY", "public"))


class Role(StrEnum):
    """`ROLES`, for typer."""

    CLIENT = "client"
    WORKER = "worker"
    OBSERVER = "observer"


keys = typer.Typer(
    help="""Who may connect to the broker of this machine: a key file for each.

    Two machines, three commands. On the broker's machine:

        zmqtasks keys init

        zmqtasks broker --bind tcp://0.0.0.0:5555

    and on the other, with worker.key copied there:

        zmqtasks worker tcp://HOST:5555 --key worker.key

    Keys are kept in ZMQTASKS_KEYS, by default ~/.config/zmqtasks/keys. On one machine alone nothing has to be done.
    """,
)


@keys.command()
def init(debug: Debug = False) -> None:  # noqa: ARG001 - for the help; `main` looks for it
    """Make keys that may serve other machines: once, on the broker's machine.

    Example: zmqtasks keys init. What is there is kept; a second time changes nothing.
    """
    from zmqtasks.nodes.zap import keypair

    store = KeyStore()
    made = store.init(keypair)
    print(f"Made keys in {store.folder}." if made else f"There are keys in {store.folder}, and they stay.")
    print("Start the broker here:")
    print("    zmqtasks broker --bind tcp://0.0.0.0:5555")
    for entry in store.entries():
        if entry.name in ROLES:
            print(_where_to(store, entry.role, entry.name))


@keys.command()
def add(
    role: Annotated[Role, typer.Argument(help="client submits, worker runs tasks, observer only looks.")],
    name: Annotated[str, typer.Argument(help="A name of your choice, for `list` and `revoke`.")],
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Make one more key, so that it can be revoked alone.

    Example: zmqtasks keys add worker lab7 makes lab7.key, for the workers of one machine.
    """
    from zmqtasks.nodes.zap import keypair

    store = KeyStore()
    try:
        path = store.add(role, name, keypair)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    print(f"Made {path}.")
    print(_where_to(store, role, name))


@keys.command("list")
def list_keys(as_json: AsJson = False, debug: Debug = False) -> None:  # noqa: ARG001 - for the help
    """Show the keys that the broker admits.

    Example: zmqtasks keys list --json
    """
    store = KeyStore()
    entries = store.entries()
    found = [{"name": entry.name, "role": entry.role, "public": entry.public} for entry in entries]
    document = {"folder": str(store.folder), "initialised": store.initialised, "keys": found}
    nothing = f"no keys in {store.folder} (zmqtasks keys init makes them)"
    records(found, _KEYS, as_json=as_json, document=document, nothing=nothing)
    if entries and not (as_json or store.initialised):
        typer.echo("For this machine only (zmqtasks keys init lets others in).", err=True)


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(help="As in `zmqtasks keys list`.")],
    debug: Debug = False,  # noqa: ARG001 - for the help; `main` looks for it
) -> None:
    """Admit a key no longer: a running broker stops listening to it within a second.

    Example: zmqtasks keys revoke lab7
    """
    try:
        found = KeyStore().revoke(name)
    except UnusableKey:  # there is no store
        found = False
    if not found:
        raise CommandError(f"there is no key {name!r} (see zmqtasks keys list)", Exit.NOT_FOUND)
    print(f"Revoked {name}.")


def _where_to(store: KeyStore, role: str, name: str) -> str:
    """What to do with a key file, in two lines."""
    path = store.path(name)
    use = {
        "client": f'in a program elsewhere: Client("tcp://HOST:5555", key="{path.name}")',
        "worker": f"on a machine that works: zmqtasks worker tcp://HOST:5555 --key {path.name}\n"
        f"    zmqtasks worker --ventilator tcp://HOST:5557 --key {path.name}    for a pipeline, without a broker",
        "observer": f"where you look on: zmqtasks status --key {path.name}",
    }[role]
    command, _, rest = use.partition(": ")
    return f"Copy {path}, and {command}:\n    {rest}"
