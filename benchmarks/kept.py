"""What the long benchmarks share: a table that grows row by row, and work in a process of its own."""

from __future__ import annotations

import csv
import multiprocessing
import re
import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
TRACED = Path(__file__).parent / "traced"
INSTALLED = re.compile(r"/[^\s:()]*/site-packages/")
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file of rows.

    Attributes:
        key: the columns that name a row.
        order: of the keys; that of their letters if empty.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    order: tuple[tuple[str, ...], ...] = ()

    @property
    def path(self) -> Path:
        return TRACED / self.name

    def rows(self) -> dict[tuple[str, ...], Row]:
        """The table as it stands."""
        if not self.path.exists():
            return {}
        with self.path.open(newline="", encoding="utf-8") as file:
            return {tuple(row[k] for k in self.key): row for row in csv.DictReader(file)}

    def add(self, row: Row) -> None:
        """Write the table whole with one row more, or another in its place."""
        found = self.rows() | {tuple(str(row[k]) for k in self.key): row}
        self.write(found[one] for one in (self.order or sorted(found)) if one in found)

    def write(self, rows: Iterable[Row]) -> None:
        """Write these rows."""
        rows = list(rows)
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | {"said": without_paths(row.get("said") or "")} for row in rows)


def without_paths(said: str) -> str:
    """What was said, with files of libraries named from their package on, the same on every machine."""
    return INSTALLED.sub("", said)


def apart(
    work: Callable[..., Row], *args: Any, limit_s: float | None = None, most_bytes: int | None = None
) -> Row:  # fmt: skip
    """A row that `work` makes in a process of its own, forked where torch is imported already.

    Args:
        most_bytes: of private memory.

    Returns:
        Its row; or ``status`` and ``said`` where it fails, dies or takes longer than `limit_s`.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = _FORK.Process(target=_send, args=(theirs, most_bytes, work, args))
    child.start()
    theirs.close()
    try:
        if not ours.poll(limit_s):
            return {"status": "too slow", "said": f"more than {limit_s:.0f} s"}
        row: Row = ours.recv()
    except EOFError:
        child.join()
        return {"status": "failed", "said": f"the process ended with {child.exitcode}"}
    else:
        return row
    finally:
        child.kill()
        child.join()


def _send(
    pipe: Any, most_bytes: int | None, work: Callable[..., Row], args: tuple[Any, ...]
) -> None:
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))
    try:
        pipe.send(work(*args))
    except BaseException as error:  # noqa: BLE001  # whatever it is, the next one's turn comes
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
        pipe.send({"status": "failed", "said": said})


def import_all() -> None:
    """What every trace imports, once, so that its seconds are its own."""
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
