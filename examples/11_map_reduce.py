"""Map-reduce as a chord: a task for each file, and one task with the list of what they returned.

The files of Python's standard library, or others: `python examples/11_map_reduce.py *.py`. The body is released once,
where the results arrive, and is a task like any other; nothing here waits before the last line.
"""

import ast
import sys
import sysconfig
from collections import Counter
from pathlib import Path

from zmqtasks import Client, chain, chord, group, signature

paths = [Path(name) for name in sys.argv[1:]] or sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))


def kinds(path):
    """Map: how often each kind of statement stands in a file."""
    tree = ast.parse(path.read_text("utf-8", "replace"))
    return Counter(type(node).__name__ for node in ast.walk(tree) if isinstance(node, ast.stmt))


def total(counters):
    """Reduce: their sum."""
    return sum(counters, Counter())


def most(counter, number):
    """A step after: what came before is its first argument."""
    return counter.most_common(number)


header = group(signature(kinds, path) for path in paths)
report = chain(chord(header, signature(total)), signature(most, 3))

with Client() as client:
    found = client.run(report).result()

for kind, times in found:
    print(f"{kind}: {times}")
print(f"{len(paths)} files; as one process counts:", found == most(total(map(kinds, paths)), 3))
