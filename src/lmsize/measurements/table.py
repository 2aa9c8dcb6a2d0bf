"""Files of measurements as rows of text: any encoding that people save, no row lost to another."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from lmsize.errors import InputError, LmsizeError, nearest_names
from lmsize.measurements.columns import COLUMNS, RUN_COLUMNS, SERVING_COLUMNS, kinds

LARGEST_BYTES = 512 * 2**20
MARKS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16",
         b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}  # fmt: skip
DELIMITERS = ",;\t|"
MOST_LINES = 40  # of one record; more is a quote that was never closed
# What the package ships, each with its README of sources beside it.
SHIPPED = ("memory", "throughput", "runs", "fits", "inference", "megatron_ci_tiny_memory")
Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """A file of measurements.

    Attributes:
        kinds: what its rows may measure (:data:`lmsize.measurements.columns.KINDS`).
        rows: cells by column, stripped; a missing cell is an empty one, every row has an ``id``.
        faults: (id, reason) of lines that are no rows.
    """

    name: str
    kinds: tuple[str, ...]
    rows: tuple[Row, ...]
    faults: tuple[tuple[str, str], ...] = ()


def shipped(name: str) -> Table:
    """One of the package's own files (:data:`SHIPPED`)."""
    path = files("lmsize.measurements.data").joinpath(f"{name}.csv")
    return parsed(path.read_text("utf-8"), name=name)


def table_at(path: Path) -> Table:
    """A user's file.

    Raises:
        LmsizeError: it cannot be read, or its header names no measurement.
    """
    return parsed(_text(path), name=str(path))


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise LmsizeError(f"{path}: is a folder: expected a CSV file of measurements")
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise LmsizeError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError:  # a name with a NUL byte
        raise LmsizeError(f"{str(path)!r}: is no file's name") from None
    if len(content) > LARGEST_BYTES:
        raise LmsizeError(f"{path}: is too large: at most {LARGEST_BYTES} bytes are read")
    return decoded(content)


def decoded(content: bytes) -> str:
    """Text by its byte order mark, else UTF-8, else as Windows writes Western text."""
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def parsed(text: str, *, name: str) -> Table:
    """Rows of CSV text (comma, semicolon, tab or bar, as its header has them).

    Raises:
        LmsizeError: there is no header, or it names no measurement.
    """
    text = text.replace("\x00", "").lstrip("\ufeff")
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    csv.field_size_limit(min(LARGEST_BYTES, 2**31 - 1))
    records = _records(list(io.StringIO(text, newline="")), delimiter)
    header = next((_header(cells) for cells in records if any(cells)), [])
    found = kinds(header)
    if not found:
        raise _no_measurement(name, header)
    faults: list[tuple[str, str]] = []
    rows: list[Row] = []
    seen: set[str] = set()
    for number, cells in enumerate(records, start=1):
        if not any(cell.strip() for cell in cells):
            continue
        row = dict.fromkeys(header, "") | {
            column: _cell(cell) for column, cell in zip(header, cells, strict=False) if column
        }
        row["id"] = _identity(row.get("id", ""), number, seen)
        if len(cells) > len(header) and any(c.strip() for c in cells[len(header) :]):
            faults.append((row["id"], f"has {len(cells)} cells: the header names {len(header)}"))
            continue
        rows.append(row)
    return Table(name, found, tuple(rows), tuple(faults))


def _cell(text: str) -> str:
    """Without outer spaces, the mark that keeps a spreadsheet from running it, and control codes."""
    bare = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    bare = bare.strip()
    return bare[1:] if bare.startswith(("'=", "'+", "'-", "'@")) else bare


def _header(cells: list[str]) -> list[str]:
    """Column names as people write them: case, spaces and hyphens do not matter."""
    bare = (cell.removeprefix("ï»¿") for cell in cells)  # UTF-8's mark, read as Western text
    return ["_".join(cell.casefold().replace("-", " ").split()) for cell in bare]


def _identity(said: str, number: int, seen: set[str]) -> str:
    """The row's own id, made unique."""
    name = base = said or f"row-{number}"
    again = 1
    while name in seen:
        again += 1
        name = f"{base}#{again}"
    seen.add(name)
    return name


def _records(lines: list[str], delimiter: str) -> Iterator[list[str]]:
    """The cells of each record. A quote that is never closed costs its own line, not the file."""
    at = 0
    while at < len(lines):
        reader = csv.reader(lines[at:], delimiter=delimiter)
        start, before = at, 0
        for cells in reader:
            if reader.line_num - before > MOST_LINES:
                break
            yield cells
            before = reader.line_num
        else:
            return
        at = start + before
        yield lines[at].replace('"', "").rstrip("\r\n").split(delimiter)
        at += 1


def _no_measurement(name: str, header: list[str]) -> LmsizeError:
    known = (*COLUMNS, *RUN_COLUMNS, *SERVING_COLUMNS)
    near = [n for word in header[:50] for n in nearest_names(word, known, n_names=1)]
    expected = (
        "a header with measured_peak_gib, measured_step_time_s, measured_tokens_per_s_per_gpu, "
        "outcome, gpu_hours or metric and value (see docs/accuracy.md)"
    )
    shown = ", ".join(word for word in header if word)[:200]
    return InputError(f"{name}: header", shown or None, expected, nearest=near[:3])
