"""Today's figures against the committed ones: no set of measurements may become worse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROUNDING = 0.002  # of a fraction: figures are committed with four digits
# What would be worse if it grew.
ERRORS = ("median_abs", "mean_abs", "p90_abs")


@pytest.fixture(scope="module")
def today() -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import refresh_accuracy
    finally:
        sys.path.pop(0)
    found, _ = refresh_accuracy.collected()
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "accuracy.json").read_text("utf-8"))  # type: ignore[no-any-return]


def by_name(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, Any]]:
    keys = ("quantity", "source", "stack", "method", "split", "quality")
    return {tuple(str(row.get(k, "")) for k in keys): row for row in rows}


@pytest.mark.parametrize("group", ["overall", "by_set", "by_grade", "toys"])
def test_no_set_has_become_worse(
    group: str, today: dict[str, Any], committed: dict[str, Any]
) -> None:
    before, now = by_name(committed[group]), by_name(today[group])
    worse = [
        (name, figure, row[figure], now[name][figure])
        for name, row in before.items()
        if name in now
        for figure in ERRORS
        if row[figure] is not None and now[name][figure] > row[figure] + ROUNDING
    ]
    worse += [
        (name, "right", row["right"], now[name]["right"])
        for name, row in before.items()
        if name in now and row["right"] is not None and now[name]["right"] < row["right"] - ROUNDING
    ]
    assert not worse


def test_no_row_has_been_lost(today: dict[str, Any], committed: dict[str, Any]) -> None:
    assert today["n_rows"] >= committed["n_rows"]
    assert today["n_modelled"] >= committed["n_modelled"]
    before, now = by_name(committed["by_set"]), by_name(today["by_set"])
    lost = [name for name, row in before.items() if name not in now or now[name]["n"] < row["n"]]
    assert not lost


def test_ranges_cover_test_rows_as_promised(today: dict[str, Any]) -> None:
    """Overall; groups that are off are named in docs/accuracy.md."""
    overall = {row["quantity"]: row for row in today["coverage"] if "stack" not in row}
    for quantity in ("memory", "time"):
        assert 0.85 <= overall[quantity]["coverage90"] <= 0.95, quantity


def test_ranges_are_those_of_todays_engines(today: dict[str, Any]) -> None:
    """The committed table is what refitting would write, to rounding."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import refit_ranges
    finally:
        sys.path.pop(0)
    from lmsize.estimate.ranges import spreads

    fresh = {line.key: line for line in refit_ranges.lines()}
    assert set(fresh) == set(spreads())
    for key, line in spreads().items():
        assert line.log_ratios == pytest.approx(fresh[key].log_ratios, abs=0.005), key
