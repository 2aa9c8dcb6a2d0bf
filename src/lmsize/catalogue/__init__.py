"""Accelerators, prices, models, precisions, recipes, optimizers, grid carbon: data with sources."""

from __future__ import annotations

from functools import cache

from lmsize.catalogue.catalogue import Catalogue
from lmsize.catalogue.records import (
    Accelerator,
    CarbonRow,
    MfuRow,
    ModelEntry,
    ModelSummary,
    Node,
    Overhead,
    Price,
)
from lmsize.catalogue.rules import Optimizer, Precision, Recipe, Stack, StateRule

__all__ = [
    "Accelerator",
    "CarbonRow",
    "Catalogue",
    "MfuRow",
    "ModelEntry",
    "ModelSummary",
    "Node",
    "Optimizer",
    "Overhead",
    "Precision",
    "Price",
    "Recipe",
    "Stack",
    "StateRule",
    "built_in",
    "load_user_catalogue",
]


@cache
def built_in() -> Catalogue:
    """The catalogue that comes with the package; its tables are read when first asked for."""
    return Catalogue()


def load_user_catalogue(path: str) -> Catalogue:
    """The package's catalogue with the rows of a user's TOML or CSV file on top.

    Raises:
        CatalogueError: with every fault of the file.
    """
    from lmsize.catalogue.user import read_user_rows  # cattrs is only needed here

    return Catalogue(read_user_rows(path))
