"""The registry of families: `model_type` -> the function that reads its config."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files

from lmsize.model.config import Config
from lmsize.model.spec import ModelSpec

FAMILIES = "lmsize.model.families"
Reader = Callable[[Config], ModelSpec]
_readers: dict[str, Reader] = {}


def family(*model_types: str) -> Callable[[Reader], Reader]:
    """Register a reader for these `model_type` values."""

    def register(reader: Reader) -> Reader:
        for model_type in model_types:
            if model_type in _readers:
                raise ValueError(f"model_type {model_type!r} has two readers")
            _readers[model_type] = reader
        return reader

    return register


class Readers(Mapping[str, Reader]):
    """All families by `model_type`; a family's module is imported when it is asked for.

    The index (``data/families.json``) is written by ``tools/build_family_index.py``; a test compares
    it with what the modules register.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = modules

    def __getitem__(self, model_type: str) -> Reader:
        importlib.import_module(f"{FAMILIES}.{self._modules[model_type]}")
        return _readers[model_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


@cache
def readers() -> Readers:
    """The families that the package's index names."""
    text = files("lmsize.model.data").joinpath("families.json").read_text("utf-8")
    return Readers(json.loads(text))


def registered() -> dict[str, str]:
    """`model_type` -> module of every family there is; imports them all."""
    package = importlib.import_module(FAMILIES)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{FAMILIES}.{module.name}")
    return {name: reader.__module__.rpartition(".")[2] for name, reader in sorted(_readers.items())}
