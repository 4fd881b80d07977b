"""The calls of generated workflows. Light: children import it, and many of them are killed."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from zmqtasks import Failure, UpstreamFailed

TRIES = {"ok": 1, "slow": 1, "fail": 1, "retry": 3, "give up": 2, "killed": 2, "doomed": 1}
"""How often a call of each mode runs."""


def step(*given: Any) -> list[Any]:
    """Leave a byte, and return what was given, or fail; with exceptions as what is known of them."""
    *inputs, label, mode, folder = given
    file = os.open(f"{folder}/{label}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, b"x")
        attempt = os.fstat(file).st_size
    finally:
        os.close(file)
    if mode == "killed" and attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "doomed" and attempt == 1:  # its process is killed soon, whatever it does then
        threading.Timer(0.001 * (int(label[1:]) % 5), os.kill, (os.getpid(), signal.SIGKILL)).start()
    if mode == "slow":
        threading.Event().wait(0.005)
    if mode in ("fail", "give up") or (mode == "retry" and attempt < TRIES[mode]):
        raise ValueError(label)
    return [label, *map(plain, inputs)]


def plain(value: Any) -> Any:
    """A value without exceptions."""
    if isinstance(value, Failure):
        assert value.task_id
        assert value.traceback
        return ["Failure", plain(value.exception)]
    if isinstance(value, BaseExceptionGroup):
        return ["ExceptionGroup", *map(plain, value.exceptions)]
    if isinstance(value, UpstreamFailed):
        return ["UpstreamFailed", plain(value.__cause__)]
    if isinstance(value, BaseException):
        return [type(value).__name__, str(value)]
    return [plain(each) for each in value] if isinstance(value, list) else value
