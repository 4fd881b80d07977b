"""What the workers of tests run, by name. Light: each child imports it, and with a module of tests all that has."""

from __future__ import annotations

import os

from gate import work


def slow_square(number: int) -> int:
    work(0.0005)
    return number * number


def odd_one_out(number: int) -> int:
    if number % 3 == 2:
        raise ValueError(f"no {number}")
    return number * number


def number_of(line: str) -> int:
    """The number; but one line is poison."""
    if line == "poison":
        os._exit(9)
    return int(line)
