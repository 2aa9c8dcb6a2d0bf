"""The CSV file that rows are appended to: nothing in it is lost or written twice."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lmsize.errors import InputError, nearest_names
from lmsize.measurements.columns import COLUMNS
from lmsize.measuring.rows import Row, case_key

# A spreadsheet runs a cell that begins with one of these; an apostrophe makes it text.
ACTIVE = ("=", "+", "-", "@")
CONTROLS = dict.fromkeys((*range(32), 127), " ")


class Store:
    """A file of measurements that grows by whole cases.

    A case's rows are appended in one write. A line that a crash tore is left as it is, and its case is
    measured again.
    """

    def __init__(self, path: Path) -> None:
        """Open or begin a file.

        Raises:
            InputError: it cannot be read or written, or its header lacks columns.
        """
        self.path = path
        try:
            text = path.read_text("utf-8-sig") if path.exists() else ""
            with path.open("a", encoding="utf-8"):
                pass  # refused now rather than after the first measurement
        except UnicodeDecodeError:
            raise InputError("--out", str(path), "a CSV file in UTF-8") from None
        except OSError as error:
            expected = f"a file that can be written ({error.strerror or error})"
            raise InputError("--out", str(path), expected) from None
        self._is_torn = bool(text) and not text.endswith("\n")
        self.header, self.done = self._read(text)

    def _read(self, text: str) -> tuple[Sequence[str], set[str]]:
        if not text.strip():
            return COLUMNS, set()
        reader = csv.DictReader(io.StringIO(text))
        try:
            header = tuple(reader.fieldnames or ())
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                near = nearest_names(missing[0], header)
                expected = f"a file of measurements: its header lacks {', '.join(missing[:6])}"
                raise InputError("--out", str(self.path), expected, nearest=near)
            keys = {case_key(row) for row in reader if all(row[name] is not None for name in COLUMNS)}  # fmt: skip
        except csv.Error as error:
            expected = f"a CSV file ({error})"
            raise InputError("--out", str(self.path), expected) from None
        return header, {key for key in keys if key}

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows, in one write that is on the disk when this returns.

        Raises:
            InputError: the file can no longer be written.
        """
        out = io.StringIO()
        writer = csv.DictWriter(out, self.header, restval="", lineterminator="\n")
        if self.path.stat().st_size == 0:
            writer.writeheader()
        elif self._is_torn:
            out.write("\n")
        for row in rows:
            writer.writerow({name: inert(value) for name, value in row.items()})
            self.done.add(case_key(row) or "")
        try:
            with self.path.open("ab") as file:
                file.write(out.getvalue().encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            expected = f"a file that can be written ({error.strerror or error})"
            raise InputError("--out", str(self.path), expected) from None
        self._is_torn = False


def inert(cell: str) -> str:
    """A cell of one line that no spreadsheet takes for a formula."""
    line = cell.translate(CONTROLS)
    return f"'{line}" if line.lstrip().startswith(ACTIVE) else line
