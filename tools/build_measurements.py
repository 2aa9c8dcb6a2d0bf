"""Build the package's files of measurements from a folder of collected ones.

``python tools/build_measurements.py FOLDER`` checks every row and writes
``src/lmsize/measurements/data/*.csv``: the columns in one order, spaces and line ends cleaned,
ids unique, grades and splits known, and no cell that a spreadsheet would run as a formula. What a row's
source says otherwise is put right by ``tools/measurement_corrections.toml``.
"""

from __future__ import annotations

import csv
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "src/lmsize/measurements/data"
CORRECTIONS = Path(__file__).parent / "measurement_corrections.toml"
FILES = ("memory", "throughput", "runs", "fits", "inference", "megatron_ci_tiny_memory")
GRADES, SPLITS = ("A", "B", "C"), ("calibration", "test", "")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
NEEDED = ("id", "source_repo_or_url", "quality")


def cleaned(cell: str) -> str:
    """One line, no outer spaces; text that a spreadsheet would run is led by an apostrophe."""
    text = " ".join(cell.split())
    if text.startswith(FORMULA) and not _is_number(text):
        # Launch options (--flag) are text that every reader of these files knows: only what a
        # spreadsheet would evaluate is marked.
        return text if text.startswith("--") else f"'{text}"
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def faults(rows: list[dict[str, str]]) -> list[str]:
    """What is wrong with a file's rows, each with its id."""
    found = []
    for name, n in Counter(row["id"] for row in rows).items():
        if n > 1:
            found.append(f"{name}: {n} rows have this id")
    for row in rows:
        found += [f"{row['id']}: {column} is empty" for column in NEEDED if not row[column]]
        if row["quality"] not in GRADES:
            found.append(f"{row['id']}: quality {row['quality']!r}")
        if row.get("split", "") not in SPLITS:
            found.append(f"{row['id']}: split {row['split']!r}")
    return found


def corrections(file: str) -> list[dict[str, Any]]:
    """Those of one file: a part of a cell, and what it is instead."""
    every = tomllib.loads(CORRECTIONS.read_text("utf-8"))["corrections"]
    return [one for one in every if file in one.get("files", FILES)]


def corrected(row: dict[str, str], every: list[dict[str, Any]]) -> dict[str, str]:
    """A row as its source has it."""
    for one in every:
        if row["source_repo_or_url"] == one["source"] and one["column"] in row:
            cell = row[one["column"]].replace(one["was"], one["is"])
            row = row | {one["column"]: cell}
    return row


def built(source: Path, target: Path) -> int:
    """Copy one file, cleaned and checked; its number of rows."""
    with source.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = [name for name in reader.fieldnames or [] if name]
        known = corrections(source.stem)
        rows = [corrected({c: cleaned(row[c] or "") for c in columns}, known) for row in reader]
    wrong = faults(rows)
    if wrong:
        raise SystemExit(f"{source.name}: {len(wrong)} faults\n" + "\n".join(wrong[:20]))
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def main(folder: Path) -> None:
    """Build every file."""
    for name in FILES:
        n = built(folder / f"{name}.csv", DATA / f"{name}.csv")
        print(f"{name}.csv: {n} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
