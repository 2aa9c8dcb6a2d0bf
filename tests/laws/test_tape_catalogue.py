"""The tape meets the traces of catalogue models at their real shape that were put down."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks/tape_catalogue.py"


def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("tape_catalogue", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CATALOGUE = benchmark()
TRACED = [row for row in CATALOGUE.rows().values() if row["status"] == "traced"]


def test_there_are_traces_to_meet() -> None:
    assert len(TRACED) > 20
    assert len({row["model"] for row in TRACED}) > 10


@pytest.mark.parametrize("row", TRACED, ids=lambda row: f"{row['model']}-{row['setting']}")
def test_the_peak_is_the_traced_one_within_two_per_cent(row: dict[str, Any]) -> None:
    assert abs(CATALOGUE.compared(row)["error"]) <= CATALOGUE.ALLOWED_FRAC
