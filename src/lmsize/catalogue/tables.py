"""Reading the package's own data files into records: typed by the record's fields, lazily."""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

from lmsize.catalogue.names import plain
from lmsize.catalogue.records import (
    Accelerator,
    CarbonRow,
    MfuRow,
    Node,
    Overhead,
)
from lmsize.catalogue.rules import Optimizer, Precision, Recipe, Stack, StackScope, StateRule

Row = TypeVar("Row")

LIST_SEPARATOR = ";"
ALIASES = re.compile(r"^aliases = \[(.*)\]$", re.MULTILINE)


def whole(text: str) -> int:
    """A whole number; raises ValueError for anything else, 8.7 and 8e3 included."""
    if not text.lstrip("-").isdecimal():
        raise ValueError("a whole number, without point, exponent or separators")
    return int(text)


def real(text: str) -> float:
    """A number in plain or scientific notation; nan, inf and separators are refused."""
    if not set(text) <= set("+-0123456789.eE"):
        raise ValueError("a number")
    return float(text)


def flag(text: str) -> bool:
    """``true`` or ``false``."""
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.lower() == "true"


def names(text: str) -> tuple[str, ...]:
    """Words between semicolons."""
    return tuple(part.strip() for part in text.split(LIST_SEPARATOR) if part.strip())


CELL: Mapping[str, Callable[[str], Any]] = {
    "int": whole, "float": real, "bool": flag, "str": str, "tuple[str, ...]": names,
}  # fmt: skip


def cell_readers(record: type) -> dict[str, Callable[[str], Any]]:
    """For each field of a record, what turns a cell of text into its value."""
    kinds = {f.name: str(f.type).removesuffix(" | None") for f in fields(record)}
    return {name: CELL[kind] for name, kind in kinds.items() if kind in CELL}


def csv_records(record: Callable[..., Row], lines: Iterable[str]) -> Iterator[Row]:
    """Records of a CSV table; an empty cell leaves the field's default."""
    readers = cell_readers(record)  # type: ignore[arg-type]  # a record's class is what makes it
    rows = csv.reader(lines)
    columns = next(rows)
    named = [(name, readers[name]) for name in columns]
    for row in rows:
        yield record(**{n: read(t) for (n, read), t in zip(named, row, strict=True) if t})


def data_file(name: str) -> Traversable:
    """One of the package's own data files."""
    return files("lmsize.catalogue.data").joinpath(name)


def data_text(name: str) -> str:
    """The text of one of the package's own data files."""
    return data_file(name).read_text("utf-8")


def _keyed(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, Row]:
    return {key(row): row for row in rows}


@cache
def accelerators() -> Mapping[str, Accelerator]:
    """The accelerators by name."""
    lines = data_text("accelerators.csv").splitlines()
    return _keyed(csv_records(Accelerator, lines), lambda row: row.name)


@cache
def nodes() -> tuple[Node, ...]:
    """The nodes with their dated prices."""
    return tuple(csv_records(Node, data_text("nodes.csv").splitlines()))


@cache
def carbon() -> Mapping[str, CarbonRow]:
    """Grid carbon intensities by region code."""
    lines = data_text("carbon.csv").splitlines()
    return _keyed(csv_records(CarbonRow, lines), lambda row: row.region)


@cache
def mfu() -> tuple[MfuRow, ...]:
    """Typical model FLOPs utilisation by accelerator family, method and size."""
    return tuple(csv_records(MfuRow, data_text("mfu.csv").splitlines()))


@cache
def overheads() -> tuple[Overhead, ...]:
    """Driver contexts, allocator slack and PUE."""
    return tuple(csv_records(Overhead, data_text("overheads.csv").splitlines()))


@cache
def precisions() -> Mapping[str, Precision]:
    """Number types and ways of quantising by name."""
    lines = data_text("precisions.csv").splitlines()
    return _keyed(csv_records(Precision, lines), lambda row: row.name)


@cache
def _optimizer_texts() -> Mapping[str, str]:
    """The text of each optimizer's table by name: parsing one takes a fiftieth of all."""
    parts = data_text("optimizers.toml").split("\n[")[1:]
    return {head: body for head, _, body in (part.partition("]\n") for part in parts)}


@cache
def _optimizer_aliases() -> Mapping[str, str]:
    """Optimizer names by their plain names and aliases."""
    texts = _optimizer_texts()
    found: dict[str, str] = {}
    for name, text in texts.items():
        for alias in re.findall(r'"([^"]+)"', "".join(ALIASES.findall(text))):
            found[plain(alias)] = name
    return {**found, **{plain(name): name for name in texts}}


def optimizer_names() -> tuple[str, ...]:
    """The names of the optimizers, in the order of the file."""
    return tuple(_optimizer_texts())


@cache
def optimizer(plain_name: str) -> Optimizer | None:
    """An optimizer by its plain name or alias; None if unknown."""
    name = _optimizer_aliases().get(plain_name)
    if name is None:
        return None
    return optimizer_record(name, tomllib.loads(_optimizer_texts()[name]))


def optimizer_record(name: str, row: Mapping[str, Any]) -> Optimizer:
    """An optimizer from its TOML table."""
    states = tuple(StateRule(**state) for state in row.get("states", ()))
    aliases = tuple(row.get("aliases", ()))
    return Optimizer(**{**row, "name": name, "states": states, "aliases": aliases})


@cache
def stacks() -> Mapping[str, Stack]:
    """How stacks hold models, by name."""
    raw = tomllib.loads(data_text("stacks.toml"))
    return {
        name: Stack(**{**row, "name": name, "units": tuple(row.get("units", ()))})
        for name, row in raw.items()
    }


@cache
def recipes() -> Mapping[tuple[str, str], Recipe]:
    """The number types of a step by (stack, precision)."""
    raw = tomllib.loads(data_text("recipes.toml"))
    found: dict[tuple[str, str], Recipe] = {}
    for stack, table in raw.items():
        shared = {k: v for k, v in table.items() if not isinstance(v, dict)}
        for precision, row in table.items():
            if isinstance(row, dict):
                merged = {**shared, **row, "stack": stack, "precision": precision}
                merged["cached_weights"] = tuple(merged.get("cached_weights", ()))
                found[stack, precision] = Recipe(**merged)
    return found


@cache
def stack_scopes() -> Mapping[str, StackScope]:
    """Which models each stack trains."""
    raw = tomllib.loads(data_text("stack_models.toml"))
    return {name: _scope(name, row) for name, row in raw.items()}


def _scope(name: str, row: Mapping[str, Any]) -> StackScope:
    own = {kind: tuple(types) for kind, types in row.get("own", {}).items()}
    return StackScope(**{**row, "stack": name, "trains": tuple(row["trains"]), "own": own})
