"""A family of cases from a TOML file: base options, axes, explicit cases.

::

    [base]                      # for every case
    precision = "bf16"

    [models.small-mixtral]      # a smaller model of a known kind
    like = "mixtral-8x7b"
    config = { num_hidden_layers = 2 }

    [[family]]                  # every list is an axis: their product
    model = ["llama-3.2-1b", "small-mixtral"]
    micro_batch = [1, 2, 4]

    [[case]]                    # one by one
    model = "gpt2"
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmsize.errors import InputError, nearest_names

SECTIONS = ("base", "models", "family", "case")
MODEL_KEYS = ("like", "config")
MOST_CASES = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One case as the file has it.

    Attributes:
        where: its place in the file, for messages.
        label: what to call the model; `model` is what it is found by.
        overrides: keys of its config to replace.
    """

    where: str
    label: str
    model: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def grid_entries(path: Path, *, options: AbstractSet[str]) -> list[Entry]:
    """The cases of a grid file, families expanded.

    Args:
        options: the names that a case may set, besides `model` and `processes`.

    Raises:
        InputError: no such file, not TOML, or a key that is not known, the nearest offered.
    """
    raw = _toml(path)
    _known(raw, SECTIONS, str(path))
    models = _models(raw, path)
    allowed = {"model", "processes", *options}
    base = _table(raw.get("base", {}), f"{path}: base")
    _known(base, allowed, f"{path}: base")
    entries = list(itertools.islice(_entries(raw, base, models, allowed, path), MOST_CASES + 1))
    if len(entries) > MOST_CASES:
        raise InputError(f"--grid {path.parent}", path.name, f"at most {MOST_CASES} cases")
    if not entries:
        raise InputError(f"--grid {path.parent}", path.name, "at least one [[family]] or [[case]]")
    return entries


def _entries(
    raw: Mapping[str, Any], base: Mapping[str, Any], models: Mapping[str, Any],
    allowed: AbstractSet[str], path: Path,
) -> Iterator[Entry]:  # fmt: skip
    for kind in ("family", "case"):
        for at, table in enumerate(_tables(raw.get(kind, []), f"{path}: {kind}"), start=1):
            where = f"{path}: {kind} {at}"
            _known(table, allowed, where)
            settings = {**base, **table}
            axes = {k: v if isinstance(v, list) else [v] for k, v in settings.items()}
            for name, values in axes.items():
                _check_axis(name, values, where, one=kind == "case")
            if "model" not in axes:
                raise InputError(f"{where}: model", None, "a model, or a list of them")
            for chosen in itertools.product(*axes.values()):
                yield _entry(dict(zip(axes, chosen, strict=True)), models, where)


def _entry(options: dict[str, Any], models: Mapping[str, Any], where: str) -> Entry:
    label = options.pop("model")
    if not isinstance(label, str):
        raise InputError(f"{where}: model", label, "a name in quotes")
    model = models.get(label, {})
    return Entry(where, label, model.get("like", label), model.get("config", {}), options)


def _models(raw: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    models = _table(raw.get("models", {}), f"{path}: models")
    for name, model in models.items():
        where = f"{path}: models.{name}"
        _known(_table(model, where), MODEL_KEYS, where)
        if not isinstance(model.get("like"), str):
            raise InputError(f"{where}.like", model.get("like"), "a name in quotes")
        _table(model.get("config", {}), f"{where}.config")
    return models


def _check_axis(name: str, values: list[Any], where: str, *, one: bool) -> None:
    if not values:
        raise InputError(f"{where}: {name}", values, "a list that is not empty")
    if one and len(values) > 1:
        raise InputError(f"{where}: {name}", values, "one value: lists belong in a [[family]]")
    for value in values:
        if not isinstance(value, str | int | float | bool):
            raise InputError(f"{where}: {name}", value, "text, a number, true or false")


def _known(table: Mapping[str, Any], known: AbstractSet[str] | tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            near = nearest_names(key.replace("-", "_"), known)
            raise InputError(where, key, f"a key among {', '.join(sorted(known))}", nearest=near)


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(where, value, "a table")
    return value


def _tables(value: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise InputError(
            where, value, f"tables in double brackets: [[{where.rsplit(maxsplit=1)[-1]}]]"
        )
    return value


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"--grid {path.parent}", path.name, "a TOML file in UTF-8") from None
    except OSError as error:
        expected = f"a readable TOML file ({error.strerror or error})"
        raise InputError(f"--grid {path.parent}", path.name, expected) from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"--grid {path.parent}", path.name, f"valid TOML ({error})") from None
