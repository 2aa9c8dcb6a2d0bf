"""The tape against traces of one rank of many, as `benchmarks/sharded_tape_vs_trace.py` keeps them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TRACED = BENCHMARKS / "traced" / "sharded.csv"


def rows() -> list[dict[str, str]]:
    with TRACED.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sharded_tape_vs_trace

    return sharded_tape_vs_trace


def test_every_kind_of_layout_was_traced(benchmark: Any) -> None:
    assert {row["layout"] for row in rows()} == set(benchmark.LAYOUTS)


def test_the_tape_is_within_two_percent_of_every_trace(benchmark: Any) -> None:
    cases = {case["id"]: case for case in benchmark.drawn(benchmark.SEED, 30)}
    errors = {}
    for row in rows():
        taped, is_taped = benchmark.taped_peaks(cases[row["case"]])
        assert is_taped, row
        errors[row["case"]] = max(taped.values()) / int(row["traced_bytes"]) - 1
    assert max(map(abs, errors.values())) <= 0.02, errors
