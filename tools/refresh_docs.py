"""Regenerate what the pages of docs/ quote from commands; with ``--check`` only say what differs.

A ``console`` block holds commands, each after ``$ ``, and the lines of their output that the page
quotes: a line is found again by its label (the text before two spaces, numbers aside); ``...``
marks what is left out between two of them. A command with no line below it gets its output up to
warnings and assumptions. A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``, and is made by
the function of that name in one of the modules that TABLES_IN names.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tools")]

from lmsize.cli import cli

DOCS = ROOT / "docs"
CONSOLE = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.DOTALL | re.MULTILINE)
TABLE = re.compile(
    r"(?<=^<!-- table: )([a-z0-9-]+) -->\n(.*?)(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE
)
TABLES_IN = ("article_tables", "allocator_tables", "accuracy_tables", "tape_tables")
NOTES = ("formulas", "warnings", "assumptions")
LEFT_OUT = "..."
WIDTH = {"COLUMNS": "100", "FORCE_COLOR": "", "TTY_COMPATIBLE": "0"}


@cache
def output(command: str) -> str:
    """What ``lmsize ...`` prints on 100 columns."""
    name, *arguments = shlex.split(command)
    if name != "lmsize":
        raise ValueError(f"{command!r} is not a command of lmsize")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), mock.patch.dict(os.environ, WIDTH):
        cli.main(arguments, standalone_mode=False, prog_name="lmsize")
    return printed.getvalue()


@cache
def answer(command: str) -> Any:
    """The JSON document of a command."""
    return json.loads(output(f"{command} --json"))


def figure(command: str, path: str) -> Any:
    """A field of the JSON by its path: ``memory.low_bytes``, ``rows.2.time.step_s``."""
    found = answer(command)
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """(command as it stands, lines quoted from it) of a console block."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        n_lines = next(n for n, line in enumerate(lines, 1) if not line.endswith("\\"))
        yield "\n".join(lines[:n_lines]), lines[n_lines:]


def plain(command: str) -> str:
    """A command on one line."""
    return " ".join(command.replace("\\\n", " ").split())


def label(line: str) -> str:
    """What a line is known by: its text up to two spaces, without numbers."""
    return re.sub(r"[\d.,]+", "#", re.split(r"\s{2,}", line.strip())[0])


def requoted(command: str, quoted: list[str]) -> list[str]:
    """The quoted lines, as the command prints them now.

    Raises:
        ValueError: a quoted line is no longer printed, or not in that order.
    """
    fresh = [line.rstrip() for line in output(plain(command)).splitlines() if line.strip()]
    wanted = [line for line in quoted if line.strip() not in ("", LEFT_OUT)]
    if not wanted:
        wanted = fresh[: next((n for n, line in enumerate(fresh) if line in NOTES), None)]
    found = [-1]
    for line in wanted:
        rest = range(found[-1] + 1, len(fresh))
        at = next((n for n in rest if label(fresh[n]) == label(line)), None)
        if at is None:
            raise ValueError(f"{plain(command)!r} prints no line {line!r} (any more, or there)")
        found.append(at)
    lines = []
    for before, at in pairwise(found):
        lines += [LEFT_OUT] * (-1 < before < at - 1) + [fresh[at]]
    return lines


def _block(match: re.Match[str]) -> str:
    lines = []
    for command, quoted in commands(match[1]):
        lines += [f"$ {command}", *requoted(command, quoted)]
    return "\n".join(lines) + "\n"


def _table(match: re.Match[str]) -> str:
    tables = {
        name: made for module in TABLES_IN for name, made in import_module(module).TABLES.items()
    }
    return "\n".join([f"{match[1]} -->", *tables[match[1]](), ""])


def refreshed(page: str) -> str:
    """The page with every block and table made anew."""
    return TABLE.sub(_table, CONSOLE.sub(_block, page))


def main(arguments: list[str]) -> int:
    """Rewrite the pages; with ``--check`` exit with 1 if that would change one."""
    stale = 0
    for path in sorted(DOCS.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        fresh = refreshed(page)
        if "--check" not in arguments:
            path.write_text(fresh, encoding="utf-8")
        elif fresh != page:
            print(f"{path.relative_to(ROOT)} is stale: run python tools/refresh_docs.py")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
