"""What 07_word_counts.sh runs: a function of a line, and a step that adds two results."""

import re
from collections import Counter


def count(line):
    """Return how often each word stands in the line."""
    return Counter(re.findall(r"[a-z]+", line.lower()))


def add(total, counts):
    """Return the sum of both."""
    total.update(counts)
    return total
