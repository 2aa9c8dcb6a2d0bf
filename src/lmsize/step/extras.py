"""The software that the real step needs, or a clear word about what is missing."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from lmsize.errors import ExtraError

EXTRA = "measure"


def require(*packages: str, why: str = "running the real model", extra: str = EXTRA) -> None:
    """Refuse when one of these is not installed, naming the extra that brings it.

    Raises:
        ExtraError: the first that is missing.
    """
    for package in packages:
        if not is_installed(package):
            raise ExtraError(package, why, extra=extra)


def is_installed(package: str) -> bool:
    """Whether a package can be found, without importing it."""
    return find_spec(package) is not None


def optional(module: str, *, why: str) -> Any:
    """A module of a package that no extra of lmsize brings.

    Raises:
        ExtraError: it is not installed.
    """
    package = module.partition(".")[0]
    if not is_installed(package):
        raise ExtraError(package, why)
    return importlib.import_module(module)
