"""Quantities as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsize.errors import InputError
from lmsize.quantity import (
    format_bytes,
    parse_bytes,
    parse_bytes_range,
    parse_count,
    parse_duration_s,
    parse_positive,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("7e9", 7_000_000_000),
        ("1.5B", 1_500_000_000),
        ("32k", 32_000),
        ("2M", 2_000_000),
        ("1T", 10**12),
    ],
)
def test_counts(text: str, expected: int) -> None:
    assert parse_count(text, what="--n") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("25e9", 25_000_000_000),
        ("25GB", 25_000_000_000),
        ("1.5GiB", 3 * 2**29),
        ("2TiB", 2**41),
        ("1KB", 1000),
    ],
)
def test_bytes(text: str, expected: int) -> None:
    assert parse_bytes(text, what="--b") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7d", 604_800), ("90m", 5400), ("1.5h", 5400), ("2w", 1_209_600), ("3s", 3)],
)
def test_durations(text: str, expected: float) -> None:
    assert parse_duration_s(text, what="--d") == expected


def test_ranges_have_two_ends_or_one() -> None:
    assert parse_bytes_range("25e9..40e9", what="--r") == (25 * 10**9, 40 * 10**9)
    assert parse_bytes_range("1GiB", what="--r") == (2**30, 2**30)


@given(st.integers(1, 10**18))
def test_a_count_reads_back(n: int) -> None:
    assert parse_count(str(n), what="--n") == n


@given(st.text(max_size=20))
def test_anything_else_is_an_input_error_that_names_the_option(text: str) -> None:
    for parse in (parse_count, parse_bytes, parse_duration_s, parse_positive):
        try:
            assert parse(text, what="--x") >= 0
        except InputError as error:
            assert error.what == "--x"  # noqa: PT017


@pytest.mark.parametrize(
    ("n", "text"), [(2**30, "1.0 GiB"), (0, "0 bytes"), (1536, "1.5 KiB"), (5 * 2**40, "5.0 TiB")]
)
def test_bytes_are_printed_with_their_unit(n: int, text: str) -> None:
    assert format_bytes(n) == text
