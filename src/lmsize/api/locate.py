"""MODEL as people give it -> an architecture: catalogue name, Hub id, path, or a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from lmsize.api.files import config_at
from lmsize.catalogue import Catalogue
from lmsize.errors import ModelError, nearest_names
from lmsize.model.read import read_config
from lmsize.model.spec import ModelSpec

ModelLike = str | PathLike[str] | Mapping[str, Any] | ModelSpec


def located(model: ModelLike, catalogue: Catalogue) -> ModelSpec:
    """The architecture that `model` names.

    The catalogue comes first, so that a Hub id it knows never touches the network; then a path;
    then the Hub, for what looks like ``owner/name``.

    Raises:
        ModelError: nothing of that name, the nearest names offered; or a config that is not one.
        NetworkError: a Hub id that would have to be fetched, without a network.
    """
    if isinstance(model, ModelSpec):
        return model
    if isinstance(model, Mapping):
        return read_config(model, name=str(model.get("_name_or_path") or "config"))
    name = str(model).strip()
    found = catalogue.find_model(name) if isinstance(model, str) else None
    if found is not None:
        entry, assumed = found
        spec = read_config(entry.config, name=entry.name)
        return replace(spec, assumptions=(*assumed, *spec.assumptions))
    if not name or "\0" in name:
        raise ModelError("MODEL", name, "a catalogue name, a Hub id or a path")
    path = _path(name)
    if path is not None:
        return read_config(config_at(path), name=name)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        from lmsize.api.hub import fetched_config

        known = (word for row in catalogue.models() for word in (row.hf_id, *row.aliases))
        near = nearest_names(name, known)
        return read_config(config_at(fetched_config(name, nearest=near)), name=name)
    return read_config(catalogue.model(name)[0].config, name=name)  # raises, with near names


def _path(name: str) -> Path | None:
    """The path that a name means, if it looks like one or leads somewhere."""
    try:
        path = Path(name).expanduser()
        is_path = path.exists() or name.endswith(".json") or name.startswith((".", "/", "~"))
    except (OSError, RuntimeError):  # too long a name, or no such home directory
        return None
    return path if is_path else None
