"""What a client or a node says to its broker, and hears from it, beside the tasks: who it is, and what it asks."""

from __future__ import annotations

from typing import Any

import msgspec

from zmqtasks.loans import Lacks
from zmqtasks.messages import Accepted
from zmqtasks.options import Options

PROTOCOL = 3  # its version: who speaks another is refused


class Enter(msgspec.Struct, array_like=True, tag="enter"):
    """A client or a node comes to a broker, or comes back.

    `session` is a client's own word for itself, `got` how many `Settled` it has had. `python` is "3.12". A node takes
    the queues that match `queues` and do not match `excluded`, patterns as in `fnmatch`; `slots` is 0 for a client.
    `patient`: where the queue is full, the client's tasks wait before it, and are not refused. `tasks`: what the node
    has registered, by name, with the options that hold where a submit does not say otherwise.
    """

    role: str
    name: str
    protocol: int
    python: str
    session: str = ""
    got: int = 0
    patient: bool = True
    slots: int = 0
    queues: list[str] = []
    excluded: list[str] = []
    host: str = ""
    pid: int = 0
    tasks: dict[str, Options] = {}


class Welcome(msgspec.Struct, array_like=True, tag="welcome"):
    """The broker's answer. Ids of the peer's tasks begin with `first`, a node's children have the numbers after it.

    `taken`: how many `Asked` of this session the broker has, -1 if it does not know the session. `slots`: of all nodes
    together. `beat_s`: how often a node is to say that it is there.
    """

    cluster_id: str
    first: int
    taken: int
    slots: int
    beat_s: float


class Admit(msgspec.Struct, array_like=True, tag="admit"):
    """A ventilator's answer to a worker: where the tasks come from, where outcomes go, and what to run.

    The addresses are the ventilator's own: where they name no machine, it is the one that the worker has reached.
    `function` is its pickle, `sink_key` the sink's public key where that is not the ventilator's.
    """

    pipeline: str
    tasks: str
    sink: str
    sink_key: str
    name: str
    function: bytes
    beat_s: float


class Collect(msgspec.Struct, array_like=True, tag="collect"):
    """A ventilator to a sink: outcomes of this pipeline will come, from number 0 on, to be written in order or not."""

    pipeline: str
    ordered: bool


class Had(msgspec.Struct, array_like=True, tag="had"):
    """A part of the sink's answer: ranges of numbers that it has written, and pages of what it has found in its output.

    A page is one of `Present.pages`: the ventilator sees from it whether its inputs are still those. Parts are small,
    and there are as many as it takes; `Collecting` comes after the last.
    """

    ranges: list[tuple[int, int]]
    pages: list[tuple[int, bytes]]


class Collecting(msgspec.Struct, array_like=True, tag="collecting"):
    """The sink's answer: where it takes them, what its output is called, and how many failures are in that."""

    address: str
    output: str
    failed: int


class Written(msgspec.Struct, array_like=True, tag="written"):
    """These outcomes are with the system, whatever becomes of the sink now; `payloads`: which of each are failures."""

    accepted: list[Accepted]
    payloads: list[bytes]


class Refused(msgspec.Struct, array_like=True, tag="refused"):
    """The broker does not talk to this peer: why, in one line. Not `final`: it may come anew."""

    reason: str
    final: bool = True


class Taken(msgspec.Struct, array_like=True, tag="taken"):
    """So many `Asked` of this session are accepted; of a node, so many that name what it has lent."""

    count: int


class Got(msgspec.Struct, array_like=True, tag="got"):
    """So many `Settled` of this session have arrived: the broker may forget them."""

    count: int


class Fetch(msgspec.Struct, array_like=True, tag="fetch"):
    """A question: the outcome of `id`, now or, with `wait`, when there is one."""

    token: int
    id: int
    wait: bool


class Enough(msgspec.Struct, array_like=True, tag="enough"):
    """Nobody waits any more for the answer to the `Fetch` with this token."""

    token: int


class Inquiry(msgspec.Struct, array_like=True, tag="inquiry"):
    """A question about the broker itself: `what`, with `about`."""

    token: int
    what: str
    about: dict[str, Any]


class Report(msgspec.Struct, array_like=True, tag="report"):
    """The answer to `Inquiry`: values as JSON has them; with `error`, why there is none."""

    token: int
    answer: Any
    error: str = ""


class Yielded(msgspec.Struct, array_like=True, tag="yielded"):
    """Items of the generator task `id`, pickled, from number `first` on, while it runs; all of them are its outcome."""

    id: int
    first: int
    items: list[bytes]


Visit = (
    Yielded
    | Enter
    | Welcome
    | Admit
    | Collect
    | Had
    | Collecting
    | Written
    | Refused
    | Taken
    | Got
    | Fetch
    | Enough
    | Inquiry
    | Report
    | Lacks
)
