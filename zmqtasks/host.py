"""What futures ask of whatever carries their tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Host(Protocol):
    """What carries a client's tasks."""

    def cancel(self, id_: int, *, terminate: bool) -> bool:
        """Whether the task is cancelled now."""

    def cancel_all(self, first: int, count: int) -> None:
        """Cancel what has not started of the ids from `first` on; does not wait."""

    def state(self, id_: int, within_s: float = ..., /) -> tuple[int, int]:
        """The state and the attempt of an unsettled task: QUEUED until it has started, or is known to; then LEASED."""

    def accepted(self, timeout: float | None) -> bool:
        """Wait until everything submitted so far is accepted."""

    def inquire(self, what: str, **about: Any) -> Any:
        """What it says of itself; `UnknownTask` where it has no answer."""

    def wait(self, park: Callable[[], bool], on: int, /) -> bool:
        """Let the calling thread park, to wait for task `on`."""

    def watch(self, future: Any) -> list[Any]:
        """A list for the waiters of `future`."""

    def call_back(self, call: Callable[[], object]) -> None:
        """Run a user's callback off the I/O thread."""

    @property
    def cluster_id(self) -> str:
        """The prefix of ids."""
