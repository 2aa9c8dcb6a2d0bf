"""Numbers, switches and launch options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsize.measurements.cells import count, is_set, options, parsed_number, switch


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("100,5", 100.5), ("1,234", 1234.0), ("1,234,567.5", 1234567.5), ("12_000", 12000.0),
        ("2k", 2000.0), ("1.5B", 1.5e9), ("1e5", 1e5), ("~12", 12.0), ("12*", 12.0), ("0,5", 0.5),
        ("1 234", 1234.0), (".5", 0.5), ("+5", 5.0), (" 7 ", 7.0),
        ("-3", None), ("nan", None), ("inf", None), ("", None), ("3.2.1", None), ("７", None),
        ("1e999", None), ("=1+1", None), ("1" * 400, None), ("12 GB", None),
    ],
)  # fmt: skip
def test_numbers(cell: str, value: float | None) -> None:
    assert parsed_number(cell) == value


@given(st.text(max_size=60))
def test_any_text_is_a_number_or_none(cell: str) -> None:
    value = parsed_number(cell)
    assert value is None or 0 <= value <= 1e18


@given(st.integers(1, 10**9))
def test_counts_come_back_however_they_are_grouped(n: int) -> None:
    assert count({"x": f"{n:,}"}, "x") == count({"x": str(n)}, "x") == n


def test_counts_are_whole_and_positive() -> None:
    assert [count({"x": c}, "x") for c in ("8", "8.0", "0", "2.5", "")] == [8, 8, None, None, None]


def test_switches() -> None:
    words = {"yes": True, "No": False, "TRUE": True, "torch.compile": True, "": None, "maybe": None}
    assert {w: switch({"x": w}, "x") for w in words} == words


def test_options_of_launch_scripts_and_of_files() -> None:
    found = options(
        "--swiglu True --num-query-groups 8 --spec [a b]; TP=4; trainable_params=1,572,864"
    )
    assert found["num_query_groups"] == "8"
    assert found["spec"] == "[a b]"
    assert found["tp"] == "4"
    assert is_set(found, "swiglu")
    assert not is_set(options("--swiglu False"), "swiglu")
    assert not is_set(found, "absent")


@given(st.text(max_size=300))
def test_any_text_has_options_or_none(extra: str) -> None:
    assert all(isinstance(v, str) for v in options(extra).values())
