"""Reading a user's catalogue file into rows: TOML with any tables, CSV with one."""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lmsize.catalogue import tables
from lmsize.catalogue.records import (
    Accelerator,
    CarbonRow,
    ModelEntry,
    Node,
)
from lmsize.catalogue.rules import Optimizer, Precision
from lmsize.errors import CatalogueError, nearest_names

LARGEST_BYTES = 8 * 2**20
RECORDS: Mapping[str, type] = {
    "accelerators": Accelerator, "nodes": Node, "optimizers": Optimizer, "precisions": Precision,
    "carbon": CarbonRow, "models": ModelEntry,
}  # fmt: skip
KEYS = {"nodes": "instance", "carbon": "region"}  # of the other tables: name
Rows = dict[str, dict[str, dict[str, Any]]]


def read_rows(path: Path, faults: list[str]) -> Rows:
    """The rows of a file by table and name; faults that leave other rows readable are noted.

    Raises:
        CatalogueError: when nothing of the file can be read.
    """
    text = read_text(path)
    if path.suffix.casefold() == ".csv":
        return csv_rows(str(path), text, faults)
    return toml_rows(str(path), text, faults)


def read_text(path: Path) -> str:
    """The text of a file that is plain, readable, not empty and not huge."""
    try:
        if path.is_dir():
            raise CatalogueError(str(path), ["is a folder: expected a TOML or CSV file"])
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)  # a device may have no end
        if len(content) > LARGEST_BYTES:
            fault = f"is too large: at most {LARGEST_BYTES} bytes are read"
            raise CatalogueError(str(path), [fault])
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = f"is not UTF-8 text (byte {error.start}): expected a TOML or CSV file"
        raise CatalogueError(str(path), [fault]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CatalogueError(str(path), [f"cannot be read: {reason}"]) from None
    if "\0" in text:
        raise CatalogueError(str(path), ["is a binary file: expected a TOML or CSV file"])
    if not text.strip():
        raise CatalogueError(str(path), ["is empty: expected at least one row"])
    return text


def toml_rows(path: str, text: str, faults: list[str]) -> Rows:
    """Tables of rows from TOML; structural faults are noted."""
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CatalogueError(path, [f"is not TOML: {error}"]) from None
    rows: Rows = {}
    for table, members in raw.items():
        if table not in RECORDS:
            faults.append(f"{table}: unknown table{hint(table, RECORDS)}")
        elif not isinstance(members, dict):
            faults.append(f'{table}: expected rows such as [{table}."NAME"]')
        else:
            rows[table] = {}
            for key, row in members.items():
                if isinstance(row, dict):
                    rows[table][key] = row
                else:
                    faults.append(f'{table}.{key}: expected a row, [{table}."NAME"]')
    if not faults and not any(rows.values()):
        faults.append(f"holds no row: expected one of the tables {', '.join(RECORDS)}")
    return rows


def csv_rows(path: str, text: str, faults: list[str]) -> Rows:
    """One table of rows from CSV; which one follows from the columns."""
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise CatalogueError(path, [f"is not CSV: {error}"]) from None
    columns = [name.strip() for name in lines[0]]
    table = table_of(path, columns)
    key = KEYS.get(table, "name")
    readers = tables.cell_readers(RECORDS[table])
    rows: dict[str, dict[str, Any]] = {}
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            faults.append(f"line {number}: {len(cells)} cells, expected {len(columns)}")
            continue
        row = read_cells(number, dict(zip(columns, cells, strict=True)), readers, faults)
        name = str(row.pop(key, ""))
        if not name or name in rows:
            faults.append(f"line {number}: {key} is {'given twice' if name else 'missing'}")
        else:
            rows[name] = row
    if not rows and not faults:
        faults.append("holds no row below its header")
    return {table: rows}


def table_of(path: str, columns: list[str]) -> str:
    """The table that has all of these columns."""
    sets = {
        table: set(tables.cell_readers(record))
        for table, record in RECORDS.items() if table not in ("models", "optimizers")
    }  # fmt: skip
    best = max(sets, key=lambda t: len(sets[t] & set(columns)) + (KEYS.get(t, "name") in columns))
    known, faults = sets[best], []
    if len(set(columns)) != len(columns):
        faults.append("header: a column is named twice")
    faults += [f"header: unknown column {c!r}{hint(c, known)}" for c in columns if c not in known]
    if KEYS.get(best, "name") not in columns:
        faults.append(f"header: no column {KEYS.get(best, 'name')!r}")
    if faults:
        raise CatalogueError(path, faults)
    return best


def read_cells(
    number: int, cells: Mapping[str, str], readers: Mapping[str, Callable[[str], Any]],
    faults: list[str],
) -> dict[str, Any]:  # fmt: skip
    """The typed values of a line; empty cells are left out."""
    row: dict[str, Any] = {}
    for column, cell in cells.items():
        text = cell.strip()
        if text:
            try:
                row[column] = readers[column](text)
            except ValueError as error:
                faults.append(f"line {number}, {column}: {text!r} is not {error}")
    return row


def hint(name: str, known: Iterable[str]) -> str:
    """`` (did you mean ...?)``, or nothing when no name is near."""
    near = nearest_names(name, sorted(known), n_names=1)
    return f" (did you mean {near[0]}?)" if near else ""
