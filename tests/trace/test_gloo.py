"""The judge of ranks: two real ones, which meet over gloo on the CPU, hold what the trace of one says."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECORDED = BENCHMARKS / "traced" / "ranks.csv"
SMALL = ("fsdp-uneven", "fsdp-accumulation", "tp")  # run here; all are recorded
PATIENCE = 600  # seconds: a minute of an idle machine


def test_real_ranks_hold_what_the_trace_says(tmp_path: Path) -> None:
    table = tmp_path / "ranks.csv"
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / "ranks.py"), *SMALL, "--csv", str(table)],
        capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    found = rows(table)
    assert set(found) == set(SMALL)
    for case, (real, traced) in found.items():
        assert traced == pytest.approx(real, rel=1e-3), case


def test_every_case_is_recorded_and_met() -> None:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from ranks import CASES
    finally:
        sys.path.remove(str(BENCHMARKS))
    found = rows(RECORDED)
    assert set(found) == set(CASES)
    for case, (real, traced) in found.items():
        assert traced == pytest.approx(real, rel=1e-3), case


def rows(table: Path) -> dict[str, tuple[int, int]]:
    """Real and traced bytes by case."""
    with table.open(newline="", encoding="utf-8") as lines:
        return {
            row["case"]: (int(row["real_bytes"]), int(row["traced_bytes"]))
            for row in csv.DictReader(lines)
        }
