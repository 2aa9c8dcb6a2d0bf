"""The registry of families: `model_type` -> the function that reads its config."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache

from lmsize.model.config import Config
from lmsize.model.spec import ModelSpec

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


@cache
def readers() -> dict[str, Reader]:
    """All families; the modules of ``lmsize.model.families`` are imported on first use."""
    package = importlib.import_module("lmsize.model.families")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return _readers
