"""Quantities as people write them, read into base units and printed with their unit said.

Counts take k M B T (10^3 to 10^12); bytes take those and KB to TB (10^3) and KiB to TiB (2^10);
durations take s m h d w. Anything else is refused.
"""

from __future__ import annotations

import re
from decimal import Decimal

from lmsize.errors import InputError

_COUNT = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_BYTES = {f"{p}b": 1000**n for n, p in enumerate("kmgt", 1)} | {
    f"{p}ib": 1024**n for n, p in enumerate("kmgt", 1)
}
_DURATION = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
# Digits, in groups of three after commas if at all: 1,5 is nobody's 15.
_DIGITS = r"\d{1,3}(?:,\d{3})+|\d+(?:_\d+)*"
_NUMBER = re.compile(
    rf"\s*([+-]?(?:(?:{_DIGITS})\.?\d*|\.\d+)(?:[eE][+-]?\d{{1,5}})?)\s*([A-Za-z]*)\s*", re.ASCII
)


def _scaled(text: str, suffixes: dict[str, int], *, what: str, expected: str) -> Decimal:
    match = _NUMBER.fullmatch(text)
    factor = suffixes.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise InputError(what, text, expected)
    value = Decimal(match[1].replace(",", "").replace("_", "")) * factor
    if value.adjusted() > 30:
        raise InputError(what, text, f"{expected}, below 1e30")
    return value


def parse_count(text: str, *, what: str, least: int = 1, most: int = 10**18) -> int:
    """``"1B"``, ``"7e9"``, ``"2048"`` -> a whole number.

    Raises:
        InputError: not a number, another suffix, not whole, or outside `least`..`most`.
    """
    suffixes = ", plain or with k, M, B or T" if most >= 1000 else ""
    expected = f"a whole number from {least:,} to {most:,}{suffixes}"
    value = _scaled(text, _COUNT, what=what, expected=expected)
    if value != int(value) or not least <= value <= most:
        raise InputError(what, text, expected)
    return int(value)


def parse_bytes(text: str, *, what: str) -> int:
    """``"40e9"``, ``"25GB"``, ``"1.5GiB"`` -> bytes, rounded to a whole byte."""
    expected = "a size in bytes, plain or with KB to TB, KiB to TiB, k, M, B or T"
    value = _scaled(text, _COUNT | _BYTES, what=what, expected=expected)
    if value < 0 or value > 10**18:
        raise InputError(what, text, expected)
    return round(value)


def parse_bytes_range(text: str, *, what: str) -> tuple[int, int]:
    """``"25e9..40e9"`` -> both ends; a single size is both ends."""
    low, dots, high = text.partition("..")
    first = parse_bytes(low, what=what)
    last = parse_bytes(high, what=what) if dots else first
    if last < first:
        raise InputError(what, text, "a range whose second end is not below its first")
    return first, last


def parse_duration_s(text: str, *, what: str) -> float:
    """``"7d"``, ``"36h"`` -> seconds; a bare number is refused, since its unit is a guess."""
    expected = "a duration of a second or more with s, m, h, d or w, such as 7d"
    value = _scaled(text, _DURATION, what=what, expected=expected)
    if not 1 <= value <= 10**12:
        raise InputError(what, text, expected)
    return float(value)


def parse_positive(text: str, *, what: str, least: float = 1.0, most: float = 1e30) -> float:
    """``"312e12"``, ``"0.45"`` -> a number above zero; takes the suffixes of counts.

    Args:
        least: keeps what is divided by it finite.
    """
    expected = f"a number from {least:g} to {most:g}"
    value = float(_scaled(text, _COUNT, what=what, expected=expected))
    if not least <= value <= most:
        raise InputError(what, text, expected)
    return value


# -- printing ------------------------------------------------------------------------------------


def _prefixed(value: float, steps: list[tuple[float, str]], digits: int) -> str:
    for size, name in steps:
        if abs(value) >= size:
            return f"{value / size:,.{digits}f} {name}"
    size, name = steps[-1]
    return f"{value / size:,.{digits}f} {name}"


def format_bytes(n_bytes: float, *, decimal: bool = False) -> str:
    """Bytes for a person: GiB (2^30), or GB (10^9) where a source's own figures are shown."""
    base, mark = (1000.0, "") if decimal else (1024.0, "i")
    steps = [(base**n, f"{p}{mark}B") for n, p in ((4, "T"), (3, "G"), (2, "M"), (1, "K"))]
    return _prefixed(n_bytes, steps, 1) if abs(n_bytes) >= base else f"{n_bytes:,.0f} bytes"


def format_count(value: float) -> str:
    """A count for a person: 8.03B, 41.9M, 512."""
    steps = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")]
    if abs(value) < 1e4:
        return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
    return _prefixed(value, steps, 2).replace(" ", "")


def format_flops(value: float) -> str:
    """FLOPs with their SI prefix."""
    steps = [
        (10.0 ** (3 * n), f"{p}FLOP") for n, p in ((7, "Z"), (6, "E"), (5, "P"), (4, "T"), (3, "G"))
    ]
    return _prefixed(value, steps, 2)


def format_duration(value_s: float) -> str:
    """Seconds as the unit a person would pick."""
    steps = [
        (86_400.0 * 2, 86_400.0, "days"),
        (3600.0, 3600.0, "h"),
        (60.0, 60.0, "min"),
        (1.0, 1.0, "s"),
    ]
    for least, size, name in steps:
        if value_s >= least:
            return f"{value_s / size:,.1f} {name}"
    return f"{value_s * 1e3:,.2f} ms"
