"""Helpers that let one formula body serve a plain number and a NumPy array alike.

Formulas use ``+ - * / // **`` and these. NumPy is imported only once an array turns up, so that
a single estimate starts fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Number: TypeAlias = int | float | NDArray[np.integer[Any] | np.floating[Any]]
else:
    Number: TypeAlias = Any


PLAIN = (int, float)


def is_plain(*values: Any) -> bool:
    """Whether none of the values is an array."""
    return all(isinstance(value, PLAIN) for value in values)


def ceil_div(a: Any, b: Any) -> Any:
    """Quotient rounded up; exact for integers."""
    return -(-a // b)


def next_power_of_two(n: Any) -> Any:
    """The least power of two that is not below `n`, for integers from 1 to 2**62."""
    filled = n - 1
    for shift in (1, 2, 4, 8, 16, 32):
        filled = filled | filled >> shift
    return filled + 1


def larger(a: Any, b: Any) -> Any:
    """The greater of two, element by element for arrays."""
    if isinstance(a, PLAIN) and isinstance(b, PLAIN):
        return max(a, b)
    import numpy as np

    return np.maximum(a, b)


def largest(values: Sequence[Any]) -> Any:
    """The greatest of some, element by element for arrays."""
    return max(values) if is_plain(*values) else reduce(larger, values)


def smaller(a: Any, b: Any) -> Any:
    """The lesser of two, element by element for arrays."""
    if isinstance(a, PLAIN) and isinstance(b, PLAIN):
        return min(a, b)
    import numpy as np

    return np.minimum(a, b)


def plain(value: Any) -> int | float:
    """A result as a Python number; whole floats below 2**53 stay floats."""
    return value if isinstance(value, PLAIN) else value.item()


def chosen(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds, else `b`, element by element for arrays."""
    if isinstance(condition, bool):
        return a if condition else b
    import numpy as np

    made = np.where(condition, a, b)
    return made.view(type(condition)) if isinstance(condition, np.ndarray) else made


def everywhere(condition: Any) -> bool:
    """Whether a condition holds, for an array in every element."""
    return condition if isinstance(condition, bool) else bool(condition.all())
