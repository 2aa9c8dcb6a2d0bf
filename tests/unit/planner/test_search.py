"""The two searches, against a plain count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lmsize.planner.search import largest, smallest


@given(st.integers(0, 5000), st.integers(1, 4000))
def test_largest_is_the_last_that_holds(edge: int, most: int) -> None:
    expected = min(edge, most) or None
    assert largest(lambda n: n <= edge, most=most) == expected


@given(st.integers(1, 5000), st.integers(1, 4000))
def test_smallest_is_the_first_that_holds(edge: int, most: int) -> None:
    expected = edge if edge <= most else None
    assert smallest(lambda n: n >= edge, most=most) == expected


@given(st.integers(2, 10**9))
def test_few_questions_are_asked(edge: int) -> None:
    asked: list[int] = []

    def holds(n: int) -> bool:
        asked.append(n)
        return n <= edge

    largest(holds, most=2**31)
    assert len(asked) <= 2 * edge.bit_length() + 3
