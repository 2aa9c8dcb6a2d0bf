"""Refit the table of ranges from calibration rows: run after every change of an engine.

``python tools/refit_ranges.py`` writes ``src/lmsize/estimate/data/ranges.csv``.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from lmsize.estimate.ranges import LEVELS, Spread
from lmsize.measurements.table import SHIPPED, shipped
from lmsize.validation.ranges import fitted
from lmsize.validation.run import validated

TABLE = Path(__file__).parent.parent / "src/lmsize/estimate/data/ranges.csv"
COLUMNS = ("engine", "quantity", "stack", "method", "stratum", "n_rows", "n_clusters",
           *(f"q{level:g}" for level in LEVELS))  # fmt: skip
# Toy layouts check formulas; they are nobody's estimate.
# A run's range is its step's; a verdict has none.
QUANTITIES = ("memory", "time", "inference_memory", "latency")
LEFT_OUT = ("megatron_ci_tiny_memory",)


def lines() -> list[Spread]:
    """The table's lines, for every engine that is validated."""
    names = [name for name in SHIPPED if name not in LEFT_OUT]
    done = validated(map(shipped, names), engine="analytic")
    mine = [
        a for a in done.answers
        if a.group.get("split") == "calibration" and a.quantity in QUANTITIES
    ]  # fmt: skip
    return fitted(mine, engine="analytic", stratum=lambda a: a.group.get("stratum", "*"))


def write(spreads: list[Spread]) -> None:
    """Write the table; figures to four digits, which is more than they are worth."""
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for s in spreads:
            writer.writerow([*s.key, s.n_rows, s.n_clusters, *(f"{q:.4f}" for q in s.log_ratios)])


if __name__ == "__main__":
    write(lines())
    print(f"{TABLE.name} written")
