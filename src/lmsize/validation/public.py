"""``lmsize.validate``: the estimates beside measurements that other people published."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from lmsize.measurements.table import SHIPPED, Table, shipped, table_at
from lmsize.validation.run import Progress, Validation, validated
from lmsize.workload.training import check_choice

ENGINES = ("analytic",)
# Formula checks on toy layouts: they would drown what people run, so they are asked for by name.
TOYS = "megatron_ci_tiny_memory"
DEFAULT = tuple(name for name in SHIPPED if name != TOYS)


def validate(
    data: Sequence[str | PathLike[str]] | str | PathLike[str] | None = None, *,
    engine: str = "analytic", progress: Progress | None = None,
) -> Validation:  # fmt: skip
    """Put every row of some measurements as the call that a user would make.

    Args:
        data: files of rows, or names of the package's own (:data:`SHIPPED`); None for all of
            those but the toy layouts.
        engine: that answers.
        progress: called with the rows done and the rows there are.

    Raises:
        LmsizeError: a file that cannot be read or has no column that is known. A row that cannot
            be modelled is skipped with its reason.
    """
    check_choice("--engine", engine, ENGINES)
    if data is None:
        chosen: Sequence[str | PathLike[str]] = DEFAULT
    else:
        chosen = [data] if isinstance(data, str | PathLike) else data
    return validated([_table(one) for one in chosen], engine=engine, progress=progress)


def _table(one: str | PathLike[str]) -> Table:
    if isinstance(one, str) and one in SHIPPED and not Path(one).exists():
        return shipped(one)
    return table_at(Path(one))
