"""A worker: the process that `zmqtasks worker` starts, a broker's or a pipeline's node with children of its own.

It runs no user code, so that it always answers: it takes in what the broker hands out, deals it to its children, and
says every second that it is there. What its tasks submit goes up to the broker, and the outcomes come down through it.
When the connection is lost, the broker gives this node's tasks to others: the children that run them are ended, and
the node comes back as a new one.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import sys
import threading
from pathlib import Path
from time import monotonic

from zmqtasks import codec, wire
from zmqtasks.keys import Key, KeyStore
from zmqtasks.nodes.crew import occupy_standard_descriptors
from zmqtasks.nodes.dealer import Dealer
from zmqtasks.nodes.household import AGAIN, Household, Plan
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.shift import Shift
from zmqtasks.nodes.stay import Stay
from zmqtasks.visit import PROTOCOL, Admit, Enter, Refused, Welcome

MAIL_MAX = 512  # messages a turn
RETRY_S = 0.5  # between two tries to reach a broker

_log = logging.getLogger("zmqtasks")


class Worker:
    """Runs until it is stopped, with one connection after the other."""

    def __init__(self, address: str, key: Key | None, plan: Plan) -> None:
        occupy_standard_descriptors()
        self._plan = plan
        self._loop = Loop()
        self._dealer = Dealer(self._loop, address, key)
        self._stay: Household | None = None  # while the broker knows this node
        self._stops = 0
        self._kill_at: float | None = None  # when a warm stop has taken too long
        self._said = ""
        self.has_joined = False  # a broker has taken this worker in, once at least

    def stop(self, *, cold: bool = False) -> None:
        """From a signal handler: the first time, finish what runs and give back the rest; the second, give back all."""
        self._stops = 2 if cold else self._stops + 1
        self._loop.wake()

    @property
    def is_in(self) -> bool:
        """Whether a broker has it now."""
        return self._stay is not None

    def run(self) -> str:
        """Work until stopped; why it ended, where that was not asked for."""
        retry_at: float | None = monotonic()
        reason = ""
        try:
            while not reason:
                now = monotonic()
                if retry_at is not None and now >= retry_at:
                    retry_at = None
                    self._dealer.connect()
                if self._stops and (self._stay is None or self._leave(self._stay, now)):
                    break
                deadline = self._stay.turn(now) if self._stay is not None else None
                times = [time for time in (deadline, retry_at, self._kill_at) if time is not None]
                self._loop.asleep = True
                awake = self._has_mail() or bool(self._stops and self._kill_at is None)
                ready = self._loop.wait(0.0 if awake else min(times, default=None))
                now = monotonic()
                if self._stay is not None:
                    self._stay.hear_children(ready, now)
                news = self._dealer.look(ready)
                if news == "up":
                    self._enter()
                elif news == "down":
                    reason = self._hear(now)  # its last word may have come together with this
                    if not (reason or self._stops):
                        self._say(f"the connection to {self._dealer.address} is lost: trying again")
                    self._dealer.disconnect()  # at once: left alone it would connect by itself
                    self._end_stay()
                    retry_at = now + RETRY_S
                reason = reason or self._dealer.refused or self._hear(now)
                if not reason and self._stay is not None:
                    reason = self._stay.trouble
                    if self._plan.burst and self._stay.has_nothing_to_do(now):
                        self._stops = max(1, self._stops)
                if reason == AGAIN:  # the broker does not know this connection: another one
                    self._dealer.disconnect()
                    self._end_stay()
                    retry_at, reason = now + RETRY_S, ""
        finally:
            self._end_stay()
            self._dealer.close()
            self._loop.close()
        return reason

    def _leave(self, stay: Household, now: float) -> bool:
        """Whether nothing is left here that would have to be waited for."""
        if self._kill_at is None:
            self._kill_at = now + self._plan.shutdown_s
            stay.leave(now)
        elif self._stops > 1 or now >= self._kill_at:
            stay.give_up(now)
        if not stay.is_over:
            return False
        self._dealer.send(codec.simple(wire.Signal("bye")))
        return True

    def _has_mail(self) -> bool:
        return self._dealer.has_mail() or (self._stay is not None and self._stay.has_mail())

    def _end_stay(self) -> None:
        if self._stay is not None:
            self._stay.close()
            self._stay = None

    def _enter(self) -> None:
        plan = self._plan
        self._dealer.send(
            codec.simple(
                Enter(
                    "worker",
                    plan.name,
                    PROTOCOL,
                    f"{sys.version_info.major}.{sys.version_info.minor}",
                    slots=plan.slots,
                    queues=plan.queues,
                    excluded=plan.excluded,
                    host=platform.node(),
                    pid=os.getpid(),
                    tasks=plan.tasks,
                )
            )
        )

    def _hear(self, now: float) -> str:
        """Everything that has come from the broker; why this has to end, or AGAIN."""
        for _ in range(MAIL_MAX):
            if not self._dealer.has_mail() or (mail := self._dealer.mailbox.receive()) is None:
                break
            if mail.message is None:
                return "what came is no message of this version of zmqtasks"
            head = mail.message.head
            if type(head) in (Welcome, Admit):
                self._end_stay()
                kind = Stay if type(head) is Welcome else Shift
                self._stay = kind(head, self._loop, self._dealer, self._plan, now)
                self.has_joined = True
                self._say(f"at {self._dealer.address}, {self._plan.slots} at a time")
            elif type(head) is wire.Signal and head.name == "bye":  # the pipeline has ended, and this with it
                self._end_stay()
                self._stops = max(1, self._stops)
            elif type(head) is Refused:
                if head.final:
                    return head.reason
                self._say(f"the connection to {self._dealer.address} is lost: trying again ({head.reason})")
                return AGAIN
            elif self._stay is not None:
                self._stay.hear(mail.message, now)
        return ""

    def _say(self, text: str) -> None:
        if text != self._said:
            _log.info("%s", text)
        self._said = text


def main(address: str, keys: str, slots: str, cpus: str, name: str, folder: str, life: str) -> None:
    """Be the worker that a ventilator has started for itself: it ends when standard input does.

    `keys`: the folder of the store that has its key. `folder` is deleted if the ventilator was killed. `life`: a
    descriptor to be kept open, and from everybody else.
    """
    os.set_inheritable(int(life), False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    worker = Worker(
        address,
        None if address.startswith("ipc:") else KeyStore(Path(keys)).own("worker"),
        Plan(int(slots), int(cpus), name),
    )

    def watch() -> None:
        os.read(0, 1)  # until nobody holds the other end
        worker.stop(cold=True)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)

    threading.Thread(target=watch, name="zmqtasks-watch", daemon=True).start()
    if reason := worker.run():
        _log.error("%s", reason)
        sys.exit(1)
