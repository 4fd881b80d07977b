"""How long it takes from nothing to the first result, and to the end of the program."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.contestants import REFERENCE, WORKERS
from bench.questions import Figure, Question

_BROKERED = "from bench.brokered import open_client\npool, end = open_client({workers}, curve={curve})"
OPEN = {
    "zmqtasks-brokered": _BROKERED.format(workers=WORKERS, curve=True),
    "zmqtasks-brokered-ipc": _BROKERED.format(workers=WORKERS, curve=False),
    "zmqtasks": f"from zmqtasks import Client\npool = Client(workers={WORKERS})",
    REFERENCE: f"from concurrent.futures import ProcessPoolExecutor\npool = ProcessPoolExecutor({WORKERS})",
    "multiprocessing.Pool": f"from multiprocessing import Pool\npool = Pool({WORKERS})",
    "loky": f"from loky import ProcessPoolExecutor\npool = ProcessPoolExecutor({WORKERS})",
}
FIRST = "value = pool.submit(abs, -1).result()"
CLOSE = "pool.shutdown()"
FIRST_POOL, CLOSE_POOL = "value = pool.apply_async(abs, (-1,)).get()", "pool.close()\npool.join()"


def program(contestant: str) -> str:
    """Write a program that prints the seconds from its import to its first result, and closes the pool."""
    close_pool = "end.close()" if "brokered" in contestant else CLOSE
    first, close = (FIRST_POOL, CLOSE_POOL) if contestant == "multiprocessing.Pool" else (FIRST, close_pool)
    begin, end = "import time\nstart = time.perf_counter()", "print(time.perf_counter() - start, flush=True)"
    return "\n".join((begin, OPEN[contestant], first, end, "assert value == 1", close))


def measure(contestant: str, *, quick: bool) -> dict[str, float]:  # noqa: ARG001  (one start is quick enough)
    """Run the program once in a fresh interpreter; seconds."""
    command = [sys.executable, "-c", program(contestant)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    wall_s = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return {"first_result_s": float(done.stdout), "wall_s": wall_s}


QUESTION = Question(
    title="Cold start",
    note="python -c with two workers: from before the import to the first result; and the whole process.",
    figures=(
        Figure("first_result_s", "cold start to first result", "s", more_is_better=False),
        Figure("wall_s", "cold start, whole process", "s", more_is_better=False, plotted=False),
    ),
    measure=measure,
)
