"""Where a user's corrections are kept, and how they are read and written."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from lmsize.errors import CatalogueError, LmsizeError
from lmsize.estimate.correction import Correction

SCHEMA = "lmsize/calibration/1"
VARIABLE = "LMSIZE_CALIBRATION"
LARGEST_BYTES = 2**22
PLAUSIBLE = (0.01, 100.0)
Calibration = str | os.PathLike[str] | Literal[False] | None


def usual_path() -> Path:
    """The file that estimates read: ``$LMSIZE_CALIBRATION``, else in the user's configuration."""
    said = os.environ.get(VARIABLE)
    if said:
        return Path(said)
    import click

    return Path(click.get_app_dir("lmsize")) / "calibration.json"


def corrections(calibration: Calibration = None) -> tuple[Correction, ...]:
    """The corrections of a file; of the usual one if None and it is there; none if False.

    Raises:
        LmsizeError: a file that was named cannot be read, or holds something else.
    """
    if calibration is False or (isinstance(calibration, str) and calibration.lower() == "none"):
        return ()
    path = usual_path() if calibration is None else Path(calibration)
    if calibration is None and not path.is_file():
        return ()
    return _read(path)


def _read(path: Path) -> tuple[Correction, ...]:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES)
        found = json.loads(content)
    except OSError as error:
        raise LmsizeError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise CatalogueError(
            str(path), ["is no JSON: expected what `lmsize calibrate` writes"]
        ) from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise CatalogueError(
            str(path), [f"schema: expected {SCHEMA!r}, as `lmsize calibrate` writes"]
        )
    return tuple(_correction(path, row) for row in found.get("corrections") or ())


def _correction(path: Path, row: Any) -> Correction:
    names = set(Correction.__dataclass_fields__)
    if not isinstance(row, dict) or set(row) != names:
        raise CatalogueError(
            str(path), [f"corrections: expected the keys {', '.join(sorted(names))}"]
        )
    factor = row["factor"]
    if not isinstance(factor, int | float) or not PLAUSIBLE[0] <= factor <= PLAUSIBLE[1]:
        raise CatalogueError(
            str(path), [f"factor: expected a number from {PLAUSIBLE[0]} to {PLAUSIBLE[1]}"]
        )
    if row["quantity"] not in ("memory", "time"):
        raise CatalogueError(str(path), ["quantity: expected memory or time"])
    return Correction(**row)


def write_corrections(path: Path, kept: Sequence[Correction]) -> None:
    """Write a file of corrections whole, or leave what was there.

    Raises:
        LmsizeError: it cannot be written.
    """
    document = {"schema": SCHEMA, "corrections": [asdict(one) for one in kept]}
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise LmsizeError(f"{path}: cannot be written: {error.strerror or error}") from None
