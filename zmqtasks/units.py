"""Quantities as people write them: durations such as "1h30m" in seconds, sizes such as "500M" in bytes."""

from __future__ import annotations

import math
import re

__all__ = ["bytes_of", "seconds_of"]

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
_DURATION = re.compile(r"\s*".join(rf"(?:{_NUMBER}\s*{unit}(?![a-z]))?" for unit in _SECONDS))
_SIZE = re.compile(rf"{_NUMBER}\s*([kmgt]?)(b|ib|)")


def seconds_of(text: str) -> float:
    """Return the seconds that a duration has: "90", "1.5s", "1h30m", "2d", "250ms"; a `ValueError` otherwise.

    A number alone is seconds; of several units (w, d, h, m, s, ms) the longest comes first.
    """
    written = text.strip().lower()
    if re.fullmatch(_NUMBER, written):
        seconds = float(written)
    elif written and (match := _DURATION.fullmatch(written)):
        parts = zip(match.groups(), _SECONDS.values(), strict=True)
        seconds = math.fsum(float(number) * unit for number, unit in parts if number)
    else:
        raise ValueError(f"{text!r} is no duration, such as 90, 1.5s or 1h30m")
    if not math.isfinite(seconds):
        raise ValueError(f"{text!r} is too long a duration")
    return seconds


def bytes_of(text: str) -> int:
    """Return the bytes that a size has: "4096", "64k", "500M", "1.5GiB", "2GB"; a `ValueError` otherwise.

    K, M, G and T are powers of 1024, as KiB and so on are; KB, MB, GB and TB are powers of 1000.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if not match or (match[3] == "ib" and not match[2]):
        raise ValueError(f"{text!r} is no size, such as 4096, 500M or 1.5G")
    base = 1000 if match[2] and match[3] == "b" else 1024
    size = float(match[1]) * float(base) ** " kmgt".index(match[2] or " ")
    if not math.isfinite(size):
        raise ValueError(f"{text!r} is too large a size")
    return round(size)
