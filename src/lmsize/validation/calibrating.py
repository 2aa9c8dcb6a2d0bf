"""A user's measurements -> corrections for their machine, kept only where they help."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from lmsize.api.calibration import corrections, usual_path, write_corrections
from lmsize.estimate.correction import Correction
from lmsize.measurements.table import table_at
from lmsize.validation.metrics import grouped
from lmsize.validation.result import Answer, Skipped
from lmsize.validation.run import Progress, validated

LEAST_ROWS = 3
QUANTITIES = ("memory", "time")


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What came of calibrating.

    Attributes:
        found: every group's correction, and whether it was kept.
        path: where the kept ones were written; None if nowhere.
    """

    found: tuple[tuple[Correction, bool], ...]
    skipped: tuple[Skipped, ...]
    path: Path | None


def calibrate(
    rows: Sequence[str | PathLike[str]] | str | PathLike[str], *,
    out: str | PathLike[str] | None = None, write: bool = True, progress: Progress | None = None,
) -> Calibrated:  # fmt: skip
    """Turn files of a user's own rows into corrections that later estimates apply.

    A group (stack, accelerator, quantity) of at least three rows gives the median of measured over
    predicted. It is kept only if it makes the error of rows that were left out smaller. Groups that
    the rows do not speak of stay as they were.

    Args:
        out: the file to write; None for the one that estimates read.
        write: False only tells what would be kept.

    Raises:
        LmsizeError: a file cannot be read or written, or has no column that is known.
    """
    chosen = [rows] if isinstance(rows, str | PathLike) else rows
    done = validated([table_at(Path(one)) for one in chosen], progress=progress)
    found = tuple((one, one.error_after < one.error_before) for one in fitted(done.answers))
    path = usual_path() if out is None else Path(out)
    if not write or not found:
        return Calibrated(found, done.skipped, None)
    fresh = {_key(one): one for one, helps in found if helps}
    spoken = {_key(one) for one, _ in found}
    before = corrections(path) if path.is_file() else ()
    kept = [one for one in before if _key(one) not in spoken] + list(fresh.values())
    write_corrections(path, kept)
    return Calibrated(found, done.skipped, path)


def _key(one: Correction) -> tuple[str, str, str]:
    return one.quantity, one.stack, one.accelerator


def fitted(answers: Iterable[Answer]) -> list[Correction]:
    """The correction of every group that has rows enough."""
    mine = [a for a in answers if a.quantity in QUANTITIES and a.predicted > 0 and a.measured > 0]
    names = ("quantity", "stack", "accelerator")

    def key(answer: Answer) -> str:
        return "\0".join((answer.quantity, *(answer.group.get(n, "") for n in names[1:])))

    return [
        _correction(members)
        for members in grouped(mine, key).values()
        if len(members) >= LEAST_ROWS
    ]


def _correction(members: Sequence[Answer]) -> Correction:
    logs = np.log([a.measured / a.predicted for a in members])
    others = [float(np.median(np.delete(logs, i))) for i in range(len(logs))]
    before = np.abs(np.exp(-logs) - 1)
    after = np.abs(np.exp(np.array(others) - logs) - 1)
    first = members[0]
    return Correction(
        quantity=first.quantity, stack=first.group["stack"], accelerator=first.group["accelerator"],
        factor=round(math.exp(float(np.median(logs))), 6), n_rows=len(members),
        error_before=round(float(np.median(before)), 6), error_after=round(float(np.median(after)), 6),
    )  # fmt: skip
