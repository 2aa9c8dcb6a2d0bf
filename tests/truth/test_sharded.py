"""The tape against traces of one rank of many, as `benchmarks/sharded_tape_vs_trace.py` keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sharded_tape_vs_trace

    return sharded_tape_vs_trace


def test_every_kind_of_layout_was_traced(benchmark: Any) -> None:
    assert {row["layout"] for row in benchmark.TABLE.rows().values()} == set(benchmark.LAYOUTS)


def test_the_tape_is_within_two_percent_of_every_trace(benchmark: Any) -> None:
    assert max(map(abs, benchmark.recorded_errors())) <= 0.02
