"""MODEL as people give it -> an architecture: catalogue name, Hub id, path, or a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from lmsize.api.files import config_at, config_file
from lmsize.assumption import Assumption
from lmsize.catalogue import Catalogue
from lmsize.errors import ModelError, nearest_names
from lmsize.model.check import check_runs
from lmsize.model.read import read_config
from lmsize.model.spec import ModelSpec

ModelLike = str | PathLike[str] | Mapping[str, Any] | ModelSpec


@dataclass(frozen=True, slots=True)
class FoundConfig:
    """The config that a name led to, and what finding it took for granted.

    Attributes:
        place: the file it was read from, or the catalogue's row; "" for a config that was passed.
    """

    name: str
    config: Mapping[str, Any]
    assumptions: tuple[Assumption, ...] = ()
    place: str = ""


def located(model: ModelLike, catalogue: Catalogue) -> ModelSpec:
    """The architecture that `model` names.

    Raises:
        ModelError: as :func:`found_config`, or a config that is not one of a model.
        NetworkError: a Hub id that would have to be fetched, without a network.
    """
    if isinstance(model, ModelSpec):
        return model
    found = found_config(model, catalogue)
    try:
        spec = read_config(found.config, name=found.name)
        check_runs(spec)
    except ModelError as error:
        raise error.inside(found.place) if found.place else error from None
    return replace(spec, assumptions=(*found.assumptions, *spec.assumptions))


def found_config(model: ModelLike, catalogue: Catalogue) -> FoundConfig:
    """The config that `model` names.

    The catalogue comes first, so that a Hub id it knows never touches the network; then a path;
    then the Hub, for what looks like ``owner/name``.

    Raises:
        ModelError: nothing of that name, the nearest names offered.
        NetworkError: a Hub id that would have to be fetched, without a network.
    """
    if isinstance(model, ModelSpec):
        raise ModelError("MODEL", model.name, "a config, or a name that leads to one")
    if isinstance(model, Mapping):
        return FoundConfig(str(model.get("_name_or_path") or "config"), model)
    name = str(model).strip()
    found = catalogue.find_model(name) if isinstance(model, str) else None
    if found is not None:
        entry, assumed = found
        return FoundConfig(entry.name, entry.config, assumed, f"model {entry.name}")
    if not name or "\0" in name:
        raise ModelError("MODEL", name, "a catalogue name, a Hub id or a path")
    path = _path(name)
    if path is not None:
        return FoundConfig(name, config_at(path), place=str(config_file(path)))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        from lmsize.api.hub import fetched_config

        known = (word for row in catalogue.models() for word in (row.hf_id, *row.aliases))
        near = nearest_names(name, known)
        path = fetched_config(name, nearest=near)
        return FoundConfig(name, config_at(path), place=str(path))
    return FoundConfig(name, catalogue.model(name)[0].config)  # raises, with near names


def _path(name: str) -> Path | None:
    """The path that a name means, if it looks like one or leads somewhere."""
    try:
        path = Path(name).expanduser()
        is_path = path.exists() or name.endswith(".json") or name.startswith((".", "/", "~"))
    except (OSError, RuntimeError):  # too long a name, or no such home directory
        return None
    return path if is_path else None
