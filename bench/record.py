"""What a run found: the answers of all rounds with the machine they were found on, and as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bench.contestants import REFERENCE

if TYPE_CHECKING:
    from pathlib import Path

    from bench.questions import Figure
    from bench.rounds import Answers

PACKAGES = (
    *("zmqtasks", "pyzmq", "msgspec", "cloudpickle", "loky", "numpy"),
    *("celery", "redis", "distributed", "ray"),
)


def versions() -> dict[str, str]:
    """Look up the versions of the packages that matter here, where installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Say what a reader must know of this machine: CPUs this process may use, kernel, Python, packages."""
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": versions(),
        "load_before": os.getloadavg()[0],
    }


@dataclass(frozen=True, slots=True)
class Record:
    """A run; `absent` and `failures` give reasons by contestant and by "question contestant"."""

    answers: Answers
    contestants: tuple[str, ...]
    rounds: int
    quick: bool
    absent: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=machine)

    def values(self, question: str, contestant: str, key: str) -> list[float]:
        """List one figure's value in each round."""
        return [figures[key] for figures in self.answers.get(question, {}).get(contestant, ())]

    def median(self, question: str, contestant: str, key: str) -> float | None:
        """Take the median over the rounds, None if there is none."""
        values = self.values(question, contestant, key)
        return statistics.median(values) if values else None

    def ratio(self, question: str, contestant: str, figure: Figure) -> float | None:
        """Say how many times better than ProcessPoolExecutor it is: above 1 is better in any unit."""
        own = self.median(question, contestant, figure.key)
        reference = self.median(question, REFERENCE, figure.key)
        if not own or not reference:
            return None
        return own / reference if figure.more_is_better else reference / own

    def write(self, path: Path) -> None:
        """Write the whole run as JSON, medians too, for readers other than this program."""
        medians = {
            question: {
                contestant: {key: self.median(question, contestant, key) for key in rounds[0]}
                for contestant, rounds in of_question.items()
                if rounds
            }
            for question, of_question in self.answers.items()
        }
        path.write_text(json.dumps({**asdict(self), "medians": medians}, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a run that `write` wrote."""
        loaded = json.loads(path.read_text())
        del loaded["medians"]
        return cls(**{**loaded, "contestants": tuple(loaded["contestants"])})
