"""How often does each word stand in some files? Workers count a file each, and their counts are added as they come.

The files of Python's standard library, or others: `python examples/06_word_counts.py *.txt`. Files are opened where
they are counted and only the sum is kept, so there may be more of them than memory holds. The same from the shell,
a line at a time: 07_word_counts.sh.
"""

import re
import sys
import sysconfig
from collections import Counter
from functools import reduce
from pathlib import Path

from zmqtasks import Ventilator

paths = [Path(name) for name in sys.argv[1:]] or sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))


def count(path):
    """Return how often each word stands in the file."""
    return Counter(re.findall(r"[a-z]+", path.read_text("utf-8", "replace").lower()))


def add(total, counts):
    """Return the sum of both."""
    total.update(counts)
    return total


with Ventilator(count) as pipeline:
    total = pipeline.fold(paths, step=add, initial=Counter())

print(f"{len(paths)} files, {total.total()} words, {len(total)} different ones")
for word, times in sorted(total.items(), key=lambda item: (-item[1], item[0]))[:3]:
    print(f"{word}: {times}")
print("as one process counts:", total == reduce(add, map(count, paths), Counter()))
