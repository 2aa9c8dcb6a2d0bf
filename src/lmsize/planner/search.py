"""Searches for the largest and the smallest whole number that something holds for."""

from __future__ import annotations

from collections.abc import Callable


def largest(holds: Callable[[int], bool], *, most: int) -> int | None:
    """The largest n in 1..most with ``holds(n)``, for a property that large numbers lose.

    Doubles, then halves the gap: about 2 log2(answer) calls. None if not even 1 holds.
    """
    if most < 1 or not holds(1):
        return None
    low = 1
    while low < most:
        high = min(low * 2, most)
        if not holds(high):
            return _between(holds, low, high)
        low = high
    return most


def smallest(holds: Callable[[int], bool], *, most: int) -> int | None:
    """The smallest n in 1..most with ``holds(n)``, for a property that large numbers gain."""
    lacking = largest(lambda n: not holds(n), most=most)
    if lacking is None:
        return 1
    return None if lacking == most else lacking + 1


def _between(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The last n that holds, given that `low` does and `high` does not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
