"""One measurement: `python -m bench.measure QUESTION CONTESTANT OUT [--quick]`, started by `bench.rounds`."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from bench.questions import question


def main(arguments: list[str]) -> int:
    """Write the figures as JSON to OUT; 1 if the measurement raised."""
    name, contestant, out, *rest = arguments
    try:
        figures = question(name).measure(contestant, quick="--quick" in rest)
    except Exception:  # noqa: BLE001  (whatever it is, our parent reports its last line)
        traceback.print_exc()
        return 1
    Path(out).write_text(json.dumps(figures))
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # A pool left open, on purpose (memory) or by an error, is not waited for: our parent kills its children.
    os._exit(code)
