"""A user's own catalogue file: rows that add to the package's or override some of their keys.

TOML holds any tables (``[accelerators."NAME"]``, ``[optimizers.NAME]`` ...); CSV holds one, told
by its columns. Keys are those of the records. Every fault of a file is reported at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmsize.catalogue import tables
from lmsize.catalogue.catalogue import UserRows
from lmsize.catalogue.check import relation_faults, strict_record, value_faults
from lmsize.catalogue.names import plain
from lmsize.catalogue.user_file import KEYS, RECORDS, Rows, hint, read_rows
from lmsize.errors import CatalogueError

# Keys of a model that are the catalogue's own; every other one is a key of its config.json.
MODEL_KEYS = frozenset(
    {
        "hf_id",
        "source",
        "source_date",
        "confidence",
        "n_params",
        "n_params_active",
        "notes",
        "hub_aliases",
    }
)


def read_user_rows(path: str | Path) -> UserRows:
    """The rows of a file, checked.

    Raises:
        CatalogueError: with every fault of the file, each with its path into it.
    """
    file, faults = Path(path), list[str]()
    raw = read_rows(file, faults)
    changed = datetime.fromtimestamp(file.stat().st_mtime, tz=UTC).date()
    stamp = {"source": file.name, "source_date": str(changed)}
    found: dict[str, dict[str, Any]] = {table: {} for table in RECORDS}
    for table, rows in raw.items():
        for key, row in rows.items():
            record = whole_record(table, key, row, stamp, faults)
            if record is not None:
                found[table][key] = record
    faults.extend(dangling(raw))
    if faults:
        raise CatalogueError(str(path), faults)
    nodes = tuple(found.pop("nodes").values())
    return UserRows(nodes=nodes, **found)


def whole_record(
    table: str, key: str, row: Mapping[str, Any], stamp: Mapping[str, str], faults: list[str]
) -> Any | None:
    """A record from a row, completed from the package's row of that name; None if faulty."""
    record, path = RECORDS[table], f'{table}."{key}"'
    given = model_row(row) if table == "models" else dict(row)
    named = {f.name: f for f in fields(record) if f.name != KEYS.get(table, "name")}
    wrong = [f"{path}.{k}: unknown key{hint(k, named)}" for k in given if k not in named]
    whole = {**base_row(table, key, given), **stamp, **given, KEYS.get(table, "name"): key}
    wrong += [
        f"{path}.{name}: missing, and {key!r} is not in the catalogue"
        for name, f in named.items() if is_required(f) and name not in whole
    ]  # fmt: skip
    out_of_range = value_faults(given, path)
    known = {k: v for k, v in whole.items() if k in named or k == KEYS.get(table, "name")}
    made, mistyped = strict_record(record, known, path)
    said = {fault.partition(": ")[0] for fault in mistyped}  # one fault a key is enough
    wrong += [fault for fault in mistyped if not fault.endswith(": missing") or ".states" in fault]
    wrong += [fault for fault in out_of_range if fault.partition(": ")[0] not in said]
    if made is not None and not wrong:
        wrong += relation_faults(made, path)
    faults += wrong
    return None if wrong else made


def is_required(field: Field[Any]) -> bool:
    """Whether a new row must give this key; its source is the file itself if it says none."""
    return field.default is MISSING and field.default_factory is MISSING


def model_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A model's row: the catalogue's own keys, and the rest as its config."""
    own = {k: v for k, v in row.items() if k in MODEL_KEYS}
    return {**own, "config": {k: v for k, v in row.items() if k not in MODEL_KEYS}}


def base_row(table: str, key: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a row starts from: the package's row with exactly this key, if there is one.

    A model starts from nothing: its config stands or falls as a whole.
    """
    found: Any = None
    if table == "accelerators":
        found = tables.accelerators().get(key)
    elif table == "precisions":
        found = tables.precisions().get(key)
    elif table == "carbon":
        found = tables.carbon().get(key)
    elif table == "optimizers" and key in tables.optimizer_names():
        found = tables.optimizer(plain(key))
    elif table == "nodes":
        found = next((n for n in tables.nodes() if n.instance == key), None)
    start = {} if found is None else {f.name: getattr(found, f.name) for f in fields(found)}
    if table == "accelerators":
        if "capacity_bytes" in given:  # what the package knew of the old figure goes with it
            start |= {"reported_bytes": None, "capacity_is_assumed": False, "capacity_source": ""}
        start.setdefault("family", key)
    return start


def dangling(raw: Rows) -> list[str]:
    """Names in rows that lead nowhere: a node's accelerator, an optimizer's fallback."""
    faults = []
    chips = {*tables.accelerators(), *raw.get("accelerators", {})}
    for key, row in raw.get("nodes", {}).items():
        chip = row.get("accelerator")
        if isinstance(chip, str) and chip not in chips:
            faults.append(f'nodes."{key}".accelerator: unknown {chip!r}{hint(chip, chips)}')
    optimizers = {*tables.optimizer_names(), *raw.get("optimizers", {})}
    for key, row in raw.get("optimizers", {}).items():
        fallback, path = row.get("fallback", ""), f'optimizers."{key}".fallback'
        if isinstance(fallback, str) and fallback and fallback not in optimizers:
            faults.append(f"{path}: unknown {fallback!r}{hint(fallback, optimizers)}")
    return faults
