"""``traced/tape.csv``: what random cases peaked at when they were traced.

A row names a case by its seed and number; the case itself is drawn again. Its digest says whether
the generator still draws what was traced.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tape_cases import Case, drawn

FILE = Path(__file__).parent / "traced" / "tape.csv"
PHASES = ("forward", "backward", "optimizer")
COLUMNS = ("case", "digest", *(f"{phase}_bytes" for phase in PHASES), "said")


def digest(case: Case) -> str:
    """A few letters that change with the case."""
    text = json.dumps([case["config"], case["options"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def recorded(path: Path = FILE) -> Iterator[Case]:
    """The cases that were traced and are still drawn, with their peaks or why there are none."""
    rows = {row["case"]: row for row in csv.DictReader(path.read_text("utf-8").splitlines())}
    most: dict[str, int] = {}
    for name in rows:
        seed, at, _ = name.split("-", 2)
        most[seed] = max(most.get(seed, 0), int(at) + 1)
    for seed, number in most.items():
        for case in drawn(int(seed), number):
            row = rows.get(case["id"])
            if row is None or row["digest"] != digest(case):
                continue
            peaks = {p: int(row[f"{p}_bytes"]) for p in PHASES if row[f"{p}_bytes"]}
            yield case | ({"error": row["said"]} if row["said"] else {"peaks": peaks})


def keep(traced: Iterable[Case], path: Path = FILE) -> None:
    """Add traced cases to the rows, in the place of older ones; in the order of seed and number."""
    known = {case["id"]: case for case in recorded(path)} if path.exists() else {}
    known |= {case["id"]: case for case in traced}
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for case in sorted(known.values(), key=lambda c: [int(n) for n in c["id"].split("-")[:2]]):
            peaks = {f"{p}_bytes": case.get("peaks", {}).get(p, "") for p in PHASES}
            said = case.get("error", "")
            writer.writerow({"case": case["id"], "digest": digest(case), "said": said} | peaks)
