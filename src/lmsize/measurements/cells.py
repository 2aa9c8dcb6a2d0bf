"""Numbers, switches and options in the cells of a row."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache

from lmsize.measurements.words import read

# A number with marks between thousands, else a plain one, whose comma is a decimal point.
NUMBER = re.compile(
    r"^[~≈]?\s*\+?((?:[0-9]{1,3}(?:[,_ ][0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,3})?)\s*([kKmMbB]?)\s*\*?$"
)
THOUSANDS = re.compile(r"(?<=[0-9])[,_ ](?=[0-9]{3}(?:[^0-9]|$))")
SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}
LARGEST = 1e18
# ``--key value`` as launch scripts have it, ``KEY=value`` and ``key: value`` as files have it.
OPTION = re.compile(r"--([\w.-]+)[ =]+(.*?)(?=\s+--|;|$)|(?:^|[;,]\s*)([\w.-]+)\s*[=:]\s*([^;,]*)")
MOST_CHARS = 20_000


def number(row: Mapping[str, str], column: str) -> float | None:
    """A finite, non-negative number; None for an empty cell or one that is none."""
    return parsed_number(row.get(column, ""))


@lru_cache(maxsize=65536)
def parsed_number(cell: str) -> float | None:
    """As :func:`number`, of a cell's text: thousands marks and k, M, B are understood."""
    found = NUMBER.match(cell.strip()) if len(cell) < 40 else None
    if found is None:
        return None
    plain = THOUSANDS.sub("", found[1]).replace(",", ".")
    value = float(plain) * SCALES[found[2].lower()]
    return value if math.isfinite(value) and 0 <= value <= LARGEST else None


def count(row: Mapping[str, str], column: str) -> int | None:
    """A whole number of at least 1; None for anything else."""
    value = number(row, column)
    return int(value) if value is not None and value >= 1 and value == int(value) else None


def switch(row: Mapping[str, str], column: str) -> bool | None:
    """A yes or a no; None where the cell says neither."""
    cell = row.get(column, "")
    meaning = read("switch", cell).meaning if cell else None
    return None if meaning is None else meaning == "yes"


@lru_cache(maxsize=8192)
def options(extra: str) -> Mapping[str, str]:
    """The options in ``extra_config``, keys in lower case with ``_`` for ``-``."""
    found: dict[str, str] = {}
    for match in OPTION.finditer(extra[:MOST_CHARS]):
        key, value = (match[1], match[2]) if match[1] else (match[3], match[4])
        found.setdefault(key.lower().replace("-", "_"), value.strip().strip("'\""))
    return found


def rate(text: str | None) -> float | None:
    """A rate from 0 to below 1; None if there is none that can be read."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < 1 else None


def is_set(extra: Mapping[str, str], key: str) -> bool:
    """Whether an option is given and not denied."""
    value = extra.get(key)
    return value is not None and value.strip().lower() not in ("false", "no", "0", "none", "null")
