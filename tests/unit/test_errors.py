"""Messages that a person can read, whatever the value was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsize.errors import (
    CatalogueError,
    InputError,
    LayoutError,
    LmsizeError,
    ModelError,
    NetworkError,
    nearest_names,
    shortened,
)


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def test_what_python_refuses_to_print_is_told_by_its_type() -> None:
    for value in (10**5000, [10**5000], {"a": -(10**5000)}, nested(100_000)):
        assert f"type {type(value).__name__}" in shortened(value)


@given(st.recursive(st.text() | st.integers() | st.floats() | st.none(), st.lists))
def test_a_value_is_never_long(value: object) -> None:
    assert len(shortened(value)) <= 80
    assert "\n" not in shortened(value)


def test_a_message_names_value_expectation_and_neighbours() -> None:
    error = InputError("--tp", 3, "a divisor of 32", nearest=[2, 4])
    assert str(error) == "--tp: 3 is not valid: expected a divisor of 32; did you mean 2 or 4?"
    assert (error.what, error.value, error.nearest) == ("--tp", 3, (2, 4))
    assert str(InputError("MODEL", None, "a model")) == "MODEL: is missing: expected a model"


def test_every_fault_of_a_catalogue_file_has_a_line() -> None:
    error = CatalogueError("own.toml", ["a: wrong", "b: missing"])
    assert str(error).splitlines()[1:] == ["  - a: wrong", "  - b: missing"]


@pytest.mark.parametrize(
    "kind", [InputError, ModelError, LayoutError, CatalogueError, NetworkError]
)
def test_every_error_is_one_of_ours(kind: type[Exception]) -> None:
    assert issubclass(kind, LmsizeError)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("adamv", ["sgd", "adamw", "lion"], ["adamw"]),
        ("ADAMW", ["adamw"], ["adamw"]),
        ("zzz", ["adamw"], []),
        ("hidden", [1, None, ("a",), "hidden_size"], ["hidden_size"]),
        ("x" * 100_000, ["x"], []),
        ("", ["a"], []),
    ],
)
def test_near_names(name: str, known: list[object], expected: list[str]) -> None:
    assert nearest_names(name, known) == expected
